"""Chat templates and settings of strangers, and characters at the edge of the context."""

import json

import pytest

from llm_numba.errors import ChatTemplateError
from llm_numba.models import IncrementalDetokenizer, Tokenizer

MESSAGES = [{"role": "user", "content": "Hi é"}]


def layout(directory, source):
    (directory / "chat_template.jinja").write_text(source)
    return Tokenizer(directory).apply_chat_template(MESSAGES)


@pytest.mark.parametrize(
    "source",
    ["{{" + "(" * 100_000, "{% for a in [1] %}" * 25 + "x" + "{% endfor %}" * 25],
    ids=["nested without end", "too many loops for Python"],
)
def test_a_template_that_cannot_be_compiled_is_no_traceback(tiny_checkpoint, source):
    with pytest.raises(ChatTemplateError):
        layout(tiny_checkpoint(), source)


@pytest.mark.parametrize("ascii_only", [True, False])
def test_tojson_takes_ensure_ascii_as_in_transformers(tiny_checkpoint, ascii_only):
    source = f"{{{{ messages[0] | tojson(ensure_ascii={ascii_only}) }}}}"
    assert layout(tiny_checkpoint(), source) == json.dumps(MESSAGES[0], ensure_ascii=ascii_only)


@pytest.mark.parametrize("template", [["a"], [{"name": ["a"], "template": "b"}], [None]])
def test_a_list_that_holds_no_templates_is_no_template(tiny_checkpoint, template):
    directory = tiny_checkpoint()
    (directory / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
    assert Tokenizer(directory).chat_template is None


def test_a_context_cut_inside_a_character_does_not_spoil_the_next(tmp_path):
    import tokenizers
    from tokenizers import decoders, normalizers

    words = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "a"]
    tok = tokenizers.Tokenizer(
        tokenizers.models.Unigram([(w, -1.0) for w in words], unk_id=0, byte_fallback=True)
    )
    tok.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tok.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tok.save(str(tmp_path / "tokenizer.json"))
    tokenizer = Tokenizer(tmp_path)
    prompt_ids, token_ids = tokenizer.encode("a 😀😀"), tokenizer.encode("😀 a")[1:]
    detokenizer = IncrementalDetokenizer(tokenizer, prompt_ids)
    pieces = [detokenizer.push(i) for i in token_ids] + [detokenizer.flush()]
    assert "".join(pieces) == "😀 a"
