"""Chat templates: where they come from, what they may see, and what the sandbox refuses."""

import copy
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from llm_numba import LLM, SamplingParams
from llm_numba.errors import ChatTemplateError
from llm_numba.models import Tokenizer

CONVERSATION = [
    {"role": "user", "content": "Hi <b> & é"},
    {"role": "assistant", "content": "Ho"},
    {"role": "user", "content": "Bye"},
]


@pytest.fixture
def render(tiny_checkpoint):
    """Lay out a conversation by a template given as source."""

    def render(source: str, messages: list[dict[str, Any]] = CONVERSATION, **options: Any) -> str:
        directory = tiny_checkpoint()
        (directory / "chat_template.jinja").write_text(source, encoding="utf-8")
        return Tokenizer(directory).apply_chat_template(messages, **options)

    return render


# -- Where a template comes from --------------------------------------------------------------


def configure(directory: Path, template: Any) -> None:
    (directory / "tokenizer_config.json").write_text(
        json.dumps({"bos_token": "<s>", "chat_template": template})
    )


def layout(directory: Path) -> str:
    return Tokenizer(directory).apply_chat_template(CONVERSATION)


def test_a_template_may_stand_in_its_own_file(tiny_checkpoint):
    directory = tiny_checkpoint()
    configure(directory, None)
    (directory / "chat_template.jinja").write_text("own: {{ messages[0].role }}")
    assert layout(directory) == "own: user"


def test_a_template_may_stand_in_tokenizer_config_json(tiny_checkpoint):
    directory = tiny_checkpoint()
    configure(directory, "configured: {{ messages[0].role }}")
    assert layout(directory) == "configured: user"


def test_of_several_templates_the_one_named_default_is_taken(tiny_checkpoint):
    directory = tiny_checkpoint()
    configure(
        directory,
        [{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "default"}],
    )
    assert layout(directory) == "default"


def test_the_own_file_counts_where_both_are_there(tiny_checkpoint):
    directory = tiny_checkpoint()
    configure(directory, "configured")
    (directory / "chat_template.jinja").write_text("own")
    assert layout(directory) == "own"


@pytest.mark.parametrize("template", [None, [], [{"name": "tool_use", "template": "tools"}]])
def test_a_model_without_a_template_says_so(tiny_checkpoint, template):
    directory = tiny_checkpoint()
    configure(directory, template)
    with pytest.raises(ChatTemplateError, match="has no chat template") as caught:
        layout(directory)
    assert "`generate`" in caught.value.remedy


# -- What a template sees ---------------------------------------------------------------------


def test_the_generation_prompt_is_written_where_it_is_asked_for(render):
    source = "{% if add_generation_prompt %}assistant:{% endif %}"
    assert render(source) == "assistant:"


def test_and_left_out_where_it_is_not(render):
    source = "x{% if add_generation_prompt %}assistant:{% endif %}"
    assert render(source, add_generation_prompt=False) == "x"


def test_the_special_tokens_are_given_by_name(render):
    assert render("{{ bos_token }}|{{ eos_token }}") == "<s>|</s>"


def test_special_tokens_of_any_kind_are_given_by_name(tiny_checkpoint):
    directory = tiny_checkpoint()
    declared = {"bos_token": "<s>", "unk_token": {"content": "<unk>"}, "pad_token": "<pad>"}
    (directory / "tokenizer_config.json").write_text(json.dumps(declared))
    (directory / "chat_template.jinja").write_text("{{ bos_token }}{{ unk_token }}{{ pad_token }}")
    assert layout(directory) == "<s><unk><pad>"


def test_tokens_that_the_checkpoint_does_not_declare_are_empty(tiny_checkpoint):
    directory = tiny_checkpoint()
    (directory / "tokenizer_config.json").write_text("{}")
    (directory / "chat_template.jinja").write_text("[{{ bos_token }}{{ eos_token }}]")
    assert layout(directory) == "[]"


def test_blocks_leave_no_blank_lines(render):
    source = (
        "{% for m in messages %}\n  {% if m.role == 'user' %}\n{{ m.content }}\n  {% endif %}\n"
    )
    assert render(source + "{% endfor %}") == "Hi <b> & é\nBye\n"


def test_loops_may_be_left_early(render):
    assert render("{% for m in messages %}{{ loop.index }}{% break %}{% endfor %}") == "1"


def test_text_is_not_escaped_for_html(render):
    assert render("{{ messages[0].content }}") == "Hi <b> & é"


def test_tojson_writes_plain_json(render):
    assert render("{{ messages[0] | tojson }}") == '{"role": "user", "content": "Hi <b> & é"}'


def test_tojson_indents_on_request(render):
    assert render("{{ messages[1] | tojson(indent=2) }}") == json.dumps(CONVERSATION[1], indent=2)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ("separators=(',', ':')", '{"role":"assistant","content":"Ho"}'),
        ("sort_keys=True", '{"content": "Ho", "role": "assistant"}'),
    ],
)
def test_tojson_takes_the_options_of_json(render, options, text):
    assert render(f"{{{{ messages[1] | tojson({options}) }}}}") == text


def test_tools_and_documents_are_none_as_transformers_gives_them(render):
    assert render("{% if tools is none and documents is none %}none{% endif %}") == "none"


def test_marks_for_training_leave_the_text_between_them(render):
    source = "{% for m in messages %}{% generation %}{{ m.role }}.{% endgeneration %}{% endfor %}"
    assert render(source) == "user.assistant.user."


def test_today_can_be_asked_for(render):
    year = render("{{ strftime_now('%Y') }}")
    assert len(year) == 4
    assert year.isdecimal()


def test_a_template_that_does_not_end_is_stopped_and_named(render, monkeypatch):
    monkeypatch.setattr("llm_numba.models.chat_template._TIME_LIMIT_S", 0.2)
    tracer = sys.gettrace()
    loop = "{% for i in range(99999) %}"
    with pytest.raises(ChatTemplateError, match=r"chat_template\.jinja did not come to an end"):
        render(3 * loop + 3 * "{% endfor %}")
    assert sys.gettrace() is tracer


def test_raise_exception_tells_the_user_what_the_template_says(render):
    with pytest.raises(ChatTemplateError, match="roles must alternate") as caught:
        render("{{ raise_exception('roles must alternate') }}")
    assert caught.value.remedy == (
        "Check the order and the roles of the messages (user, assistant, user, ...)."
    )


# -- What it may not do -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ ''['__class__']['__mro__'] }}",
        "{{ (''|attr('__class__')).__mro__ }}",
        "{{ messages.__init__.__globals__ }}",
        "{{ raise_exception.__globals__.x }}",
        "{{ strftime_now.__globals__.os }}",
        "{{ cycler.__init__.__globals__.os }}",
        "{{ self.__init__.__globals__ }}",
        "{{ messages.append(1) }}",
        "{{ messages.pop() }}",
        "{{ messages.clear() }}",
        "{{ messages[0].update({'content': 'changed'}) }}",
        "{{ messages[0].pop('content') }}",
        "{{ messages[0].setdefault('x', 1) }}",
        "{% import 'os' as os %}{{ os }}",
        "{% include '/etc/passwd' %}",
        "{% extends 'base' %}",
        "{{ range(10 ** 8) | list }}",
        "{{ missing.attribute }}",
    ],
)
def test_the_sandbox_refuses_and_the_messages_stay_as_they_were(render, source):
    messages = copy.deepcopy(CONVERSATION)
    with pytest.raises(ChatTemplateError, match=r"no template may touch|refuses this conversation"):
        render(source, messages)
    assert messages == CONVERSATION


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''|attr('__class__') }}",
        "{{ '{0.__class__}'.format('') }}",
        "{{ '{a.__class__}'.format_map({'a': ''}) }}",
        "{{ (''|attr('format'))('{0.__class__}') }}",
        "{{ raise_exception.__globals__ }}",
    ],
)
def test_names_with_underscores_read_as_nothing(render, source):
    assert render(source) == ""


# -- Templates that cannot be used ------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "line"),
    [
        ("{% if %}", 1),
        ("ok\n{{ messages", 2),
        ("\n\n{% nonsense %}", 3),
        ("{{ 1 | no_filter }}", 1),
    ],
)
def test_a_template_that_is_no_jinja_is_named_with_the_line(tiny_checkpoint, source, line):
    path = tiny_checkpoint() / "chat_template.jinja"
    path.write_text(source)
    with pytest.raises(ChatTemplateError) as caught:
        layout(path.parent)
    assert f"The chat template in {path} is not valid, line {line}: " in caught.value.cause


def test_a_template_that_is_no_jinja_stops_nobody_who_does_not_chat(tiny_checkpoint):
    directory = tiny_checkpoint()
    (directory / "chat_template.jinja").write_text("{% if %}")
    llm = LLM(directory)
    assert len(llm.generate("plain", SamplingParams(max_tokens=1))) == 1
    with pytest.raises(ChatTemplateError, match="is not valid") as caught:
        llm.chat(CONVERSATION)
    assert "`generate`" in caught.value.remedy


def test_a_template_in_tokenizer_config_json_is_named_by_that_file(tiny_checkpoint):
    directory = tiny_checkpoint()
    configure(directory, "{% if %}")
    with pytest.raises(ChatTemplateError) as caught:
        layout(directory)
    assert str(directory / "tokenizer_config.json") in caught.value.cause


def test_a_template_file_that_is_no_text_is_named(tiny_checkpoint):
    path = tiny_checkpoint() / "chat_template.jinja"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ChatTemplateError) as caught:
        layout(path.parent)
    assert caught.value.cause.startswith(f"{path} is not UTF-8 text")
