"""Tokenizers, chat templates and samplers: ours against those of the installed Transformers.

The tokenizers are trained here on a few sentences and the templates are written for the test:
between them they use what the templates of published models use.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as FastTokenizer
from tokenizers.processors import TemplateProcessing

torch = pytest.importorskip("torch", reason="PyTorch is not installed (extra `parity`)")
transformers = pytest.importorskip(
    "transformers", reason="Transformers is not installed (extra `parity`)"
)

# The folder holds helpers beside its tests, and pytest's importlib mode does not add it.
sys.path.insert(0, str(Path(__file__).parents[1] / "golden"))
import checkpoints  # noqa: E402

from llm_numba import LLM, LLMNumbaError, SamplingParams, ops  # noqa: E402
from llm_numba.models import Tokenizer  # noqa: E402

pytestmark = [
    pytest.mark.parity,
    # Their deprecations are not ours to fix.
    pytest.mark.filterwarnings("ignore:.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*:UserWarning"),
]

CORPUS = [
    "The keeper of the lighthouse counts the ships before he goes to sleep.",
    "Nobody lent Ada the blue kite, so she built one out of paper and string!",
    "Where does the river end? It ends where the sea begins, they say.",
]
TEXTS = [
    "",
    " ",
    "The river counts the ships.",
    "  two leading spaces, a tab\tand\n\na blank line  ",
    "naïve café, 东京, русский, 👩‍🚀🇨🇭",
    "a </s> special token and <|turn|> another",
    "<s>The text begins with BOS itself",
    "12345 + 67,890 = x_y-z; \"quoted\" & <b>bold</b>",
]  # fmt: skip
SPECIAL = ["<s>", "</s>", "<pad>", "<|turn|>", "<|end|>"]

CONVERSATIONS = {
    "one question": [{"role": "user", "content": "Where does the river end?"}],
    "a system prompt": [
        {"role": "system", "content": "Answer briefly."},
        {"role": "user", "content": "Who built\nthe kite?  "},
    ],
    "three turns": [
        {"role": "user", "content": "Who counts <ships> & \"boats\"?"},
        {"role": "assistant", "content": "The keeper, 东京 👩‍🚀."},
        {"role": "user", "content": "It's {{ 7 * 7 }} {% of %} them."},
    ],
    "two users in a row": [
        {"role": "user", "content": "One."},
        {"role": "user", "content": "Two."},
    ],
}  # fmt: skip

TEMPLATES = {
    "turns": """{{ bos_token }}{% for m in messages %}<|turn|>{{ m.role }}
{{ m['content'] | trim }}<|end|>
{% endfor %}{% if add_generation_prompt %}<|turn|>assistant
{% endif %}""",
    # Lines that hold only a block vanish, indentation and all.
    "indented blocks": """{{ bos_token }}
{% for m in messages %}
    {% if m.role == "user" %}
  Q: {{ m.content }}
    {%- elif loop.last -%}
  last: {{ m.content }}
    {% else %}
  A: {{ m.content }}{{ eos_token }}
    {% endif %}
{% endfor %}
""",
    "system folded into the first question": """{% if messages[0].role == 'system' %}
{% set system, rest = messages[0].content ~ '\n\n', messages[1:] %}
{% else %}{% set system, rest = '', messages %}{% endif %}
{{- bos_token -}}
{% for m in rest %}
{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}
{{ raise_exception('Roles must alternate, not ' ~ m.role) }}
{% endif %}
{{ ('[' + (system if loop.first else '') + m.content.strip() + ']') if m.role == 'user'
   else ' ' + m.content + eos_token }}
{%- endfor %}""",
    "namespace, loop controls and JSON": """{% set seen = namespace(users=0) %}
{% for m in messages %}{% if m.role == 'system' %}{% continue %}{% endif %}
{% set seen.users = seen.users + (m.role == 'user') %}
{% if seen.users > 3 %}{% break %}{% endif %}
{{ m | tojson }}|{{ m.content | tojson(indent=2) }}|{{ m.content | upper | length }}
{% endfor %}{{ seen.users }} in {{ strftime_now('%Y') }}""",
    "arguments that nobody passed": """{{ bos_token }}
{%- if tools is not none %} tools {{ tools }}{% endif %}
{%- if documents %} documents {{ documents }}{% endif %}
{%- if enable_thinking is defined and not enable_thinking %} quiet{% endif %}
{%- for m in messages %} {{ m.content }}{% if m.name is defined %} by {{ m.name }}{% endif %}
{%- endfor %}""",
    "other special tokens": """{{ bos_token }}{% for m in messages %}{{ m.content }}
{{ pad_token }}{{ unk_token is defined }}{% endfor %}""",
    # Training tools ask which tokens the assistant wrote; the text is the same.
    "generation marks": """{{ bos_token }}{% for m in messages %}
{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{{ eos_token }}{% endgeneration %}
{% else %}{{ m.content }}{% endif %}{% endfor %}""",
}


@pytest.fixture(autouse=True, scope="module")
def quiet():
    transformers.logging.set_verbosity_error()


def byte_level() -> FastTokenizer:
    """GPT-2's kind: bytes as characters, a space belongs to the word behind it."""
    tokenizer = FastTokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=360,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def metaspace() -> FastTokenizer:
    """Llama 2's kind: a space is an underscore, unknown characters fall back to bytes."""
    trained = FastTokenizer(models.BPE())
    trained.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=[*SPECIAL, *byte_tokens], show_progress=False
    )
    trained.train_from_iterator(CORPUS, trainer)
    state = trained.model
    state.byte_fallback = True
    tokenizer = FastTokenizer(state)
    tokenizer.normalizer = trained.normalizer
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    return tokenizer


KINDS = {"byte level": byte_level, "metaspace": metaspace}


def write_tokenizer(
    directory: Path, kind: str = "byte level", template: str | None = None, **saving: bool
) -> transformers.PreTrainedTokenizerFast:
    """Save a tokenizer that puts BOS before every text, as Llama's does; return it read back."""
    trained = KINDS[kind]()
    trained.post_processor = TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", trained.token_to_id("<s>"))]
    )
    theirs = transformers.PreTrainedTokenizerFast(
        tokenizer_object=trained, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )
    theirs.chat_template = template
    theirs.save_pretrained(directory, **saving)
    return transformers.AutoTokenizer.from_pretrained(directory)


def write_model(directory: Path, vocab_size: int) -> None:
    config = {
        "vocab_size": vocab_size, "hidden_size": 16, "intermediate_size": 12,
        "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1,
        "max_position_embeddings": 512, "bos_token_id": 0, "eos_token_id": 1,
    }  # fmt: skip
    checkpoints.save(checkpoints.random_model("llama", config, 0), directory, "float32", None)


# -- Tokenizers -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_text_becomes_the_same_ids_and_the_same_text_again(kind, tmp_path):
    theirs, ours = write_tokenizer(tmp_path, kind), Tokenizer(tmp_path)
    assert len(ours) == len(theirs)
    for text in TEXTS:
        for special in (True, False):
            ids = theirs(text, add_special_tokens=special).input_ids
            if special and text.startswith("<s>"):
                ids = ids[1:]  # a second BOS, which ours leaves out on purpose
            assert ours.encode(text, add_special_tokens=special) == ids, text
        for skip in (True, False):
            back = theirs.decode(ids, skip_special_tokens=skip, clean_up_tokenization_spaces=False)
            assert ours.decode(ids, skip_special_tokens=skip) == back, text


def test_generated_text_is_what_transformers_decodes_from_the_tokens(tmp_path):
    """Random tokens of a byte-level vocabulary are full of halves of characters."""
    theirs = write_tokenizer(tmp_path)
    write_model(tmp_path, len(theirs))
    params = SamplingParams(n=8, temperature=2.0, max_tokens=64, seed=3, ignore_eos=True)
    for output in LLM(str(tmp_path), device="cpu").generate("The river", params)[0].outputs:
        assert output.text == theirs.decode(
            output.token_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )


# -- Chat templates ---------------------------------------------------------------------------


@pytest.mark.parametrize("prompted", [True, False], ids=["prompted", "bare"])
@pytest.mark.parametrize("conversation", CONVERSATIONS)
@pytest.mark.parametrize("template", TEMPLATES)
def test_chat_template_renders_alike(template, conversation, prompted, tmp_path):
    theirs = write_tokenizer(tmp_path, template=TEMPLATES[template])
    ours, messages = Tokenizer(tmp_path), CONVERSATIONS[conversation]
    try:
        expected = theirs.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=prompted
        )
    except Exception as refusal:
        with pytest.raises(LLMNumbaError, match=str(refusal)):
            ours.apply_chat_template(messages, add_generation_prompt=prompted)
        return
    assert ours.apply_chat_template(messages, add_generation_prompt=prompted) == expected


def test_template_inside_tokenizer_config_is_found(tmp_path):
    """Where releases before 4.51 and most of the hub keep it."""
    theirs = write_tokenizer(tmp_path, template=TEMPLATES["turns"], save_jinja_files=False)
    assert not (tmp_path / "chat_template.jinja").exists()
    messages = CONVERSATIONS["three turns"]
    assert Tokenizer(tmp_path).apply_chat_template(
        messages, add_generation_prompt=True
    ) == theirs.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)


def test_chat_has_one_bos_though_template_and_tokenizer_both_add_it(tmp_path):
    theirs = write_tokenizer(tmp_path, template=TEMPLATES["turns"])
    write_model(tmp_path, len(theirs))
    messages = CONVERSATIONS["three turns"]
    output = LLM(str(tmp_path), device="cpu").chat(messages, SamplingParams(max_tokens=1))
    expected = theirs.apply_chat_template(
        messages, tokenize=True, add_generation_prompt=True, return_dict=False
    )
    assert output.prompt_token_ids == expected
    assert output.prompt_token_ids.count(theirs.bos_token_id) == 1


# -- Samplers ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p", "min_p"),
    [
        (0.7, 0, 1.0, 0.0),
        (1.0, 1, 1.0, 0.0),
        (1.0, 7, 1.0, 0.0),
        (1.3, 0, 0.9, 0.0),
        (1.0, 0, 0.05, 0.0),
        (0.8, 12, 0.8, 0.0),
        (1.0, 0, 1.0, 0.2),
        (2.0, 0, 1.0, 0.02),
    ],
)
def test_sampling_probabilities(temperature, top_k, top_p, min_p):
    """Min-p stands alone: Transformers applies it after top-p, ours (as vLLM) before."""
    logits = np.random.default_rng(5).normal(scale=2.0, size=(50, 40)).astype(np.float32)
    warpers = transformers.LogitsProcessorList([transformers.TemperatureLogitsWarper(temperature)])
    if top_k:
        warpers.append(transformers.TopKLogitsWarper(top_k))
    if top_p < 1:
        warpers.append(transformers.TopPLogitsWarper(top_p))
    if min_p:
        warpers.append(transformers.MinPLogitsWarper(min_p))
    expected = warpers(None, torch.from_numpy(logits.copy())).softmax(-1).numpy()

    rows = np.ones(len(logits))
    ours = ops.sampling_probabilities(
        logits, rows * temperature, (rows * top_k).astype(int), rows * top_p, rows * min_p
    )
    np.testing.assert_array_equal(ours > 0, expected > 0)
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-7)
