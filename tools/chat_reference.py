#!/usr/bin/env python3
"""Records what transformers makes of the chat templates in testdata/chat.

    python tools/chat_reference.py [testdata/chat]

Reads templates/*.jinja and writes, beside that folder:

  conversations.json  the conversations, tools and documents that are rendered
  rendered.json       per template and conversation: the prompt, or the error
  micro.json          small templates with their variables and results

Needs transformers (5.x) and jinja2. The clock stands still while recording.
"""

import datetime as real_datetime
import json
import pathlib
import sys

import transformers
from jinja2.exceptions import TemplateError
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast
from transformers.utils import chat_template_utils

NOW = real_datetime.datetime(2024, 3, 5, 7, 8, 9, 4567)


class FrozenDatetime(real_datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return NOW


chat_template_utils.datetime = FrozenDatetime

SPECIAL = {
    "bos_token": "<s>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
    "pad_token": "<pad>",
}

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city, e.g. \"Zürich\" & <others>.",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "Name of the city"},
                "days": {"type": "integer", "default": 3},
                "unit": {"type": "string", "enum": ["celsius", "fahrenheit"], "default": "celsius"},
                "hours": {"type": "array", "items": {"type": "number"}},
                "spots": {"type": "array", "items": {"type": "object", "properties": {"lat": {"type": "number"}}}},
                "either": {"type": ["string", "null"]},
                "choice": {"oneOf": [{"type": "string", "default": "x"}, {"type": "number", "description": "n"}]},
            },
            "required": ["city"],
        },
        "return": {"type": "string"},
    },
}
ADD = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "Adds two numbers.",
        "parameters": {
            "type": "object",
            "properties": {"a": {"type": "number"}, "b": {"type": "number"}},
            "required": ["a", "b"],
        },
    },
}
EMPTY = {"type": "function", "function": {"name": "now", "description": "The time.", "parameters": {"type": "object", "properties": {}, "required": []}}}


def call(name, arguments, id="abcdefghi"):
    return {"type": "function", "id": id, "function": {"name": name, "arguments": arguments}}


CONVERSATIONS = {
    "plain": {"messages": [{"role": "user", "content": "Hello there"}]},
    "system": {
        "messages": [
            {"role": "system", "content": "  Be brief.\n"},
            {"role": "user", "content": "What is 2 + 2?"},
            {"role": "assistant", "content": "4"},
            {"role": "user", "content": "And 3 + 3?"},
        ]
    },
    "complete": {
        "messages": [
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "Hello! How can I help?"},
        ],
        "add_generation_prompt": False,
    },
    "unicode": {
        "messages": [
            {"role": "user", "content": "  Grüße, 你好 👋🏽 e\u0301 \u00a0‮ \u200b tab\tand \\ backslash\u2028  "},
            {"role": "assistant", "content": "مرحبا\r\nzwei Zeilen"},
            {"role": "user", "content": "ß → SS?"},
        ]
    },
    "markup": {
        "messages": [
            {"role": "system", "content": "<b>\"R&D\"</b> 'quoted' {{ not a tag }} {% nor this %}"},
            {"role": "user", "content": "1 < 2 && \"x\" > 'y' &amp;"},
        ]
    },
    "empty": {
        "messages": [
            {"role": "system", "content": ""},
            {"role": "user", "content": ""},
            {"role": "assistant", "content": ""},
            {"role": "user", "content": "\n"},
        ]
    },
    "none_content": {
        "messages": [
            {"role": "user", "content": "Use a tool"},
            {"role": "assistant", "content": None, "tool_calls": [call("add", {"a": 1, "b": 2.0})]},
            {"role": "tool", "name": "add", "tool_call_id": "abcdefghi", "content": "3.0"},
            {"role": "assistant", "content": "It is 3."},
            {"role": "user", "content": "Thanks"},
        ],
        "tools": [ADD],
    },
    "tools": {
        "messages": [
            {"role": "system", "content": "Use tools."},
            {"role": "user", "content": "Weather?"},
            {
                "role": "assistant",
                "content": "Let me look.",
                "tool_calls": [call("get_weather", {"city": "Zürich <\"&'>", "days": 1e16, "hours": [0.1, 1e-7, -0.0, 3], "deep": {"x": None, "y": [True, {}], "z": []}})],
            },
            {"role": "tool", "name": "get_weather", "tool_call_id": "abcdefghi", "content": "{\"t\": 21.5, \"s\": \"☀\"}"},
        ],
        "tools": [WEATHER, ADD, EMPTY],
    },
    "two_calls": {
        "messages": [
            {"role": "user", "content": "Add twice"},
            {"role": "assistant", "content": "", "tool_calls": [call("add", {"a": 1, "b": 2}), call("add", {"a": 3, "b": 4}, "123456789")]},
            {"role": "tool", "content": "3", "tool_call_id": "abcdefghi"},
            {"role": "tool", "content": "7", "tool_call_id": "123456789"},
        ],
        "tools": [ADD],
    },
    "tools_first": {"messages": [{"role": "user", "content": "Which tools?"}], "tools": [WEATHER]},
    "no_tools": {"messages": [{"role": "user", "content": "Which tools?"}], "tools": []},
    "not_alternating": {
        "messages": [{"role": "user", "content": "One"}, {"role": "user", "content": "Two"}]
    },
    "thinking": {
        "messages": [
            {"role": "user", "content": "First"},
            {"role": "assistant", "content": "<think>\nhm\n</think>\n\nOne"},
            {"role": "user", "content": "Second"},
            {"role": "assistant", "content": "Two", "reasoning_content": "\nlet me see\n"},
        ],
        "add_generation_prompt": False,
    },
    "reasoning_alias": {
        "messages": [
            {"role": "user", "content": "First"},
            {"role": "assistant", "reasoning": "because", "content": "One"},
        ],
        "add_generation_prompt": False,
    },
    "blocks": {
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": " look "}, {"type": "image"}, {"type": "text", "text": "here"}]},
        ]
    },
    "documents": {
        "messages": [{"role": "user", "content": "Summarize"}],
        "documents": [{"title": "A", "text": "first text"}, {"doc_id": "x9", "title": "B", "text": "second"}],
    },
}

# Further arguments: template, conversation, arguments.
WITH_ARGS = [
    ("qwen3", "plain", {"enable_thinking": False}),
    ("qwen3", "plain", {"enable_thinking": True}),
    ("smollm3", "plain", {"enable_thinking": False}),
    ("smollm3", "plain", {"python_tools": ["def f(): pass"]}),
    ("smollm3", "complete", {"enable_thinking": False}),
    ("gptoss", "plain", {"reasoning_effort": "high"}),
    ("gptoss", "tools", {"model_identity": "You are \"it\"."}),
    ("llama", "plain", {"date_string": "1 Jan 2000"}),
    ("llama", "tools", {"tools_in_user_message": False}),
    ("granite", "documents", {"controls": {"citations": True, "length": "short"}}),
    ("granite", "plain", {"thinking": True}),
    ("chatml", "plain", {}),
]

TEMPLATE_SETS = {"cohere": {"default": "cohere_default", "tool_use": "cohere_tool_use"}}


def tokenizer(template):
    backend = Tokenizer(models.WordLevel({"<unk>": 0}, unk_token="<unk>"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **SPECIAL)
    tokenizer.chat_template = template
    return tokenizer


def outcome(render):
    """The rendered text, what raise_exception said, or the error it failed with."""
    try:
        return {"output": render()}
    except TemplateError as error:
        if type(error) is TemplateError:
            return {"raised": error.message}
        return {"error": f"{type(error).__name__}: {error}"}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}


def render(tokenizer, conversation, args):
    return outcome(
        lambda: tokenizer.apply_chat_template(
            conversation["messages"],
            tools=conversation.get("tools"),
            documents=conversation.get("documents"),
            add_generation_prompt=conversation.get("add_generation_prompt", True),
            tokenize=False,
            **args,
        )
    )


def micro(template, variables):
    return outcome(
        lambda: chat_template_utils.render_jinja_template(
            [[{"role": "user", "content": "hi"}]], chat_template=template, **variables
        )[0][0]
    )


def main():
    folder = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "testdata/chat")
    templates = {path.stem: path.read_text() for path in sorted((folder / "templates").glob("*.jinja"))}
    in_sets = {name for names in TEMPLATE_SETS.values() for name in names.values()}
    tokenizers = {name: tokenizer(text) for name, text in templates.items() if name not in in_sets}
    for name, members in TEMPLATE_SETS.items():
        tokenizers[name] = tokenizer({key: templates[value] for key, value in members.items()})

    cases = []
    for name, tok in tokenizers.items():
        for conversation, content in CONVERSATIONS.items():
            cases.append({"template": name, "conversation": conversation, "args": {}, **render(tok, content, {})})
    for name, conversation, args in WITH_ARGS:
        result = render(tokenizers[name], CONVERSATIONS[conversation], args)
        cases.append({"template": name, "conversation": conversation, "args": args, **result})

    header = {"transformers": transformers.__version__, "now": NOW.isoformat(), "special_tokens": SPECIAL}
    write(folder / "conversations.json", CONVERSATIONS)
    write(folder / "rendered.json", {**header, "sets": TEMPLATE_SETS, "cases": cases})

    small = []
    for entry in MICRO:
        template, variables, *refused = entry if isinstance(entry, tuple) else (entry, {})
        case = {"template": template, "variables": variables, **micro(template, variables)}
        if refused:
            case = {"template": template, "variables": variables, "refused": True}
        small.append(case)
    write(folder / "micro.json", {**header, "cases": small})
    print(f"{len(cases)} renderings, {len(small)} small templates")


def write(path, content):
    path.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n")


REFUSED = "refused"
D = {"d": {"a": 1, "items": [1], "b": {"c": "x"}}, "l": [3, 1, 2], "s": "Hello World", "n": None, "t": True, "f": 1.5}

# A template, or a template with its variables, or with a note that this
# project refuses it while transformers renders it.
MICRO = [
    # Text of values.
    "{{ none }}|{{ true }}|{{ false }}|{{ 1 }}|{{ 1.0 }}|{{ -3 }}|{{ [] }}|{{ {} }}|{{ () }}|{{ (1,) }}",
    "{{ 1e16 }} {{ 1e15 }} {{ 1.5e-5 }} {{ 0.0001 }} {{ 123456789.125 }} {{ 1e100 }} {{ 2.5e-300 }}",
    "{{ [1, 'a', none, true, 1.0, {'k': (1, 2)}] }}",
    ("{{ d }} {{ l }}", {"d": {"a'b": 'x"y', "c": "q'\"z", "n": None, "u": "é\u200b\u00a0\n\t\x7f\U0001f600"}, "l": ["\\", ""]}),
    "{{ 'a' ~ 1 ~ none ~ 2.0 ~ [1] ~ undefined_name }}",
    "{{ 1e16 ~ '' }}",
    ("{{ a }}{{ b }}", {"a": 0.1, "b": 100.0}),
    ("{{ x }}", {"x": 12345678901234567}),
    "{{ 'é\\n\\x41\\u00e9\\101\\q\\'' }}",
    "{{ 'a' 'b' \"c\" }}",
    "{{ '\\é' }}",
    "{{ 1_000 }} {{ 0x1f }} {{ 0b11 }} {{ 0o17 }} {{ 1_0.5 }}",
    "{{ 1, 2 }}",
    # Undefined.
    "[{{ missing }}]",
    "{{ missing.attribute }}",
    "{{ missing['item'] }}",
    "{{ missing() }}",
    "{{ missing + 'x' }}",
    "{{ missing|length }}{{ missing|upper }}{{ missing|join }}|{{ missing|list }}|{{ missing|first }}",
    "{% for x in missing %}{{ x }}{% else %}empty{% endfor %}",
    "{{ missing == none }} {{ missing == missing2 }} {{ missing is defined }} {{ not missing }}",
    "{{ 'x' in missing }}",
    "{{ missing < 1 }}",
    ("{{ d.nope }}|{{ d['nope'] }}|{{ d.nope is undefined }}", D),
    ("{{ d.nope.deeper }}", D),
    ("{{ s.nope }}|{{ n.nope }}|{{ l.nope }}|{{ l[10] }}|{{ l['x'] }}|{{ f.nope }}", D),
    ("{{ n[1:] }}", D),
    "{{ missing[1:] }}",
    ("{{ d[none] }}|{{ d[5] }}", D),
    "{{ missing|tojson }}",
    "{{ 'x' if false }}|{{ ('x' if false) is defined }}",
    "{{ missing|int }}",
    "{{ missing|default('d') }}|{{ none|default('d') }}|{{ ''|default('d', true) }}|{{ none|d('e', boolean=true) }}",
    # Attributes, items and methods.
    ("{{ d.items is defined }} {{ d.items is mapping }} {{ d['items'] }} {{ d.items is string }}", D),
    ("{% if d.keys %}yes{% endif %}", {"d": {}}),
    ("{{ d.items() | list }} {{ d.keys() | list }} {{ d.values() | list | length }}", D),
    ("{{ d.keys() }} {{ d.values() }} {{ d.items() }}", {"d": {"a": 1}}),
    ("{{ d.get('a') }} {{ d.get('z') }} {{ d.get('z', 5) }} {{ d.get('items') }}", D),
    ("{{ d.b.c }} {{ d['b']['c'] }} {{ d.b['c'] }} {{ d['b'].c.upper() }}", D),
    ("{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}", D),
    ("{% for k, v in d|items %}{{ k }}={{ v }};{% endfor %}{% for k in d %}{{ k }}{% endfor %}", D),
    ("{{ d.update({'x': 1}) }}", D),
    ("{{ l.append(4) }}", D),
    ("{{ d.__class__ }}", D, REFUSED),
    ("{{ d.items }}", {"d": {}}, REFUSED),
    ("{{ d['keys'] }}", {"d": {}}, REFUSED),
    ("{{ l.index(1) }} {{ l.count(3) }} {{ (1, 2).index(2) }}", D),
    ("{{ s.foo() }}", D),
    ("{{ d.a() }}", D),
    # Slices and indices.
    ("{{ l[::-1] }} {{ l[1:] }} {{ l[:-1] }} {{ l[-1] }} {{ l[-5:] }} {{ l[2:0:-1] }} {{ l[0:10:2] }} {{ l[5:] }}", D),
    ("{{ l[-1:0:-1] }} {{ l[:0:-1] }} {{ l[1:2:-1] }} {{ l[0:2:-1] }} {{ l[-1:-3:-1] }}", D),
    ("{{ s[::-1] }} {{ s[0] }} {{ s[-1] }} {{ s[2:5] }} {{ s[100:] }} {{ s[100] }}", D),
    ("{{ s[::0] }}", D),
    ("{{ l[true] }} {{ l[1.0] }}", D),
    ("{{ l['0'] }}{{ l.0 }}", D),
    ("{{ d[1:] }}", D),
    # Operators.
    "{{ 7 / 2 }} {{ 8 / 2 }} {{ 7 // 2 }} {{ -7 // 2 }} {{ -7 % 3 }} {{ 7 % -3 }} {{ 2 ** 10 }} {{ -2 ** 2 }}",
    "{{ 1 + 2 * 3 - 4 }} {{ (1 + 2) * 3 }} {{ 'a' ~ 1 + 2 }} {{ 1 + 2 ~ 'a' }}",
    "{{ 2 ~ 3 * 4 }} {{ 10 - 2 ~ 1 }}",
    "{{ 1 / 0 }}",
    "{{ 1 % 0 }}",
    "{{ 'a' + 1 }}",
    "{{ 'a' * 3 }}|{{ 3 * 'ab' }}|{{ 'a' * -1 }}|{{ [1] * 2 }}|{{ [1] + [2] }}|{{ (1,) + (2,) }}",
    "{{ [1] + (2,) }}",
    "{{ true + 1 }} {{ true == 1 }} {{ 1 == 1.0 }} {{ '1' == 1 }} {{ [1] == [1.0] }} {{ [1] == (1,) }} {{ {} == {} }}",
    "{{ 1 < 2 }} {{ 'a' < 'b' }} {{ [1, 2] < [1, 3] }} {{ 1 < 2 < 3 }} {{ 1 < 3 < 2 }} {{ 1 < 1.5 }}",
    "{{ 'a' < 1 }}",
    "{{ none < 1 }}",
    "{{ none == false }} {{ 0 == false }} {{ '' == none }}",
    ("{{ 'a' in d }} {{ 3 in l }} {{ 'ell' in s }} {{ 9 not in l }} {{ none in [none] }} {{ 1.0 in l }}", D),
    ("{{ 1 in s }}", D),
    "{{ 'x' in none }}",
    "{{ not 1 == 2 }} {{ not true and false }} {{ 1 and 2 }} {{ 0 or 'x' }} {{ '' or none }} {{ [] and 1 }}",
    "{{ 'a' if 0 else 'b' if 0 else 'c' }} {{ 1 if true }}",
    "{{ -1|abs }} {{ (-1)|abs }} {{ 2.5|round }} {{ 3.5|round }} {{ 2.675|round(2) }} {{ 2.1|round(0, 'ceil') }} {{ 7|round }}",
    ("{{ 7.5 // 2 }}", {}, REFUSED),
    ("{{ 5.5 % 2 }}", {}, REFUSED),
    "{{ +5 }} {{ - 5 }} {{ 1 - -1 }}",
    # Formatting.
    "{{ '%s is %d and %s' % ('a', 5, [1, 'x']) }} {{ '%s' % 'x' }} {{ '%s' % none }} {{ '%%' % () }}",
    "{{ '%5s|%-5s|%05d|%.2f|%r' % ('a', 'b', 42, 3.14159, 'q') }}",
    "{{ 'a' ~ '%s' % 'b' ~ 'c' }} {{ '%s' % 'x'|upper }} {{ 2 * 3 % 4 }} {{ ('%s-' % 'x') * 2 }}",
    "{{ '%s %s' % ('a',) }}",
    "{{ '%s' % ('a', 'b') }}",
    "{{ '%s, %s!'|format('Hi', 'you') }} {{ '{} {}'.format('a', 1) }} {{ '{0}{1}{0}'.format('a', 'b') }}",
    ("{{ '{:>5}'.format('a') }}", {}, REFUSED),
    ("{{ '%x' % 255 }}", {}, REFUSED),
    ("{{ '%(a)s' % {'a': 1} }}", {}, REFUSED),
    # String methods.
    ("{{ s.upper() }} {{ s.lower() }} {{ s.title() }} {{ s.capitalize() }} {{ s.replace('l', 'L', 1) }} {{ s.replace('l', '') }}", D),
    "{{ '  a b  '.strip() }}|{{ '  a b  '.lstrip() }}|{{ '  a b  '.rstrip() }}|{{ 'xxaxx'.strip('x') }}|{{ '\\x1ca\\x85'.strip() }}",
    "{{ 'a,b,,c'.split(',') }} {{ ' a  b c '.split() }} {{ 'a b c'.split(' ', 1) }} {{ 'a,b,c'.rsplit(',', 1) }} {{ 'abc'.split('</t>')[-1] }}",
    "{{ 'a b c d'.split(none, 2) }} {{ ''.split(',') }} {{ ''.split() }}",
    "{{ 'ab'.startswith('a') }} {{ 'ab'.startswith(('x', 'a')) }} {{ 'ab'.endswith('b') }} {{ 'ab'.find('b') }} {{ 'ab'.find('z') }} {{ 'éab'.find('a') }}",
    "{{ ', '.join(['a', 'b']) }} {{ 'a\\nb\\r\\nc\\n'.splitlines() }} {{ 'a\\nb'.splitlines(true) }} {{ 'aXbXc'.partition('X') }} {{ 'aXbXc'.rpartition('X') }} {{ 'ab'.partition('-') }}",
    "{{ 'abc'.removeprefix('a') }} {{ 'abc'.removesuffix('c') }} {{ 'a'.isalpha() }} {{ '1'.isdigit() }} {{ ' '.isspace() }} {{ 'aa'.count('a') }} {{ 'A'.isupper() }} {{ '7'.zfill(3) }}",
    "{{ ','.join([1]) }}",
    "{{ 'x'.split('') }}",
    "{{ 'ß'.upper() }} {{ 'ÉA'.lower() }} {{ 'éa'.capitalize() }} {{ 'ΑΣ'.lower() }}",
    ("{{ 'é'.isalpha() }}", {}, REFUSED),
    ("{{ 'ab'.center(6) }}", {}, REFUSED),
    ("{{ 'x'.encode() }}", {}, REFUSED),
    # Filters.
    ("{{ l|sort }} {{ l|sort(reverse=true) }} {{ l|max }} {{ l|min }} {{ l|sum }} {{ l|first }} {{ l|last }} {{ l|length }} {{ l|join('-') }} {{ l|reverse|list }}", D),
    "{{ ['b', 'A', 'c']|sort }} {{ ['b', 'A', 'c']|sort(case_sensitive=true) }} {{ ['a', 'A', 'b']|unique|list }}",
    "{{ {'b': 1, 'a': 2}|dictsort }} {{ {'b': 1, 'a': 2}|dictsort(by='value') }}",
    ("{{ m|map(attribute='role')|list }} {{ m|map(attribute='x.y', default=0)|list }} {{ m|selectattr('role', 'equalto', 'a')|list|length }} {{ m|rejectattr('role', 'in', ['a'])|map(attribute='role')|join }}", {"m": [{"role": "a", "x": {"y": 1}}, {"role": "b", "x": {}}]}),
    ("{{ ['a', 'b']|map('upper')|join(',') }} {{ [1, 2, 3]|select('odd')|list }} {{ [0, 1, '']|select|list }} {{ [1, 2]|reject('equalto', 1)|list }} {{ ['a']|map('replace', 'a', 'b')|list }}", {}),
    ("{{ m|selectattr('x')|list|length }} {{ m|selectattr('x', 'defined')|list|length }}", {"m": [{"x": 1}, {"x": 0}, {}]}),
    "{{ [1, 2]|map('string')|length }}",
    "{{ ([1, 2]|map('string'))[0] is defined }} {{ [1]|map('string')|first }}",
    "{% set g = [1, 2]|map('string') %}{% for x in g %}{{ x }}{% endfor %}{% for x in g %}{{ x }}{% endfor %}{{ g is iterable }}{{ g is sequence }}",
    ("{{ [1, 2]|map('string') }}", {}, REFUSED),
    "{{ '  a '|trim }}|{{ 'xax'|trim('x') }}|{{ 'a'|upper }}|{{ 'hELLO wORLD-x (y'|title }}|{{ 'aB'|capitalize }}|{{ 'aab'|replace('a', 'x', 1) }}|{{ 5|string + 'x' }}",
    "{{ 'a\\nb\\n\\nc'|indent }}|{{ 'a\\nb'|indent(2, true) }}|{{ 'a\\n\\nb'|indent('> ', blank=true) }}",
    "{{ '42'|int + 1 }} {{ '4.9'|int }} {{ 'x'|int }} {{ 'x'|int(7) }} {{ none|int }} {{ 4.9|int }} {{ ' 5 '|int }} {{ '1.5'|float }} {{ 'x'|float }} {{ true|int }} {{ 'information'|int }}",
    "{{ [[1, 2], [3]]|map('length')|list }} {{ 'abc'|list }} {{ 'abc'|reverse }} {{ 'abc'|first }} {{ 'abc'|last }} {{ 'héllo'|length }}",
    "{{ 5|length }}",
    "{{ none|length }}",
    "{{ none|list }}",
    "{{ '<a href=\"x\">'|e }} {{ '<b>'|safe }}",
    ("{{ ('<b>'|safe) + '<' }}", {}, REFUSED),
    "{{ '<'|e|e ~ '&' }}",
    "{{ 'x'|nope }}",
    "{{ 'x' is nope }}",
    # JSON.
    ("{{ x|tojson }}", {"x": {"b": 1, "a": [1.0, 1e16, 1e-7, True, None, "é<>&'\"\\\n\t\u0007\x7f\u2028😀"], "": {}, "l": []}}),
    ("{{ x|tojson(indent=2) }}|{{ x|tojson(indent=0) }}|{{ x|tojson(indent='--') }}|{{ [[], {}]|tojson(indent=4) }}", {"x": {"b": 1, "a": [1, {"c": []}]}}),
    ("{{ x|tojson(sort_keys=true) }}|{{ x|tojson(separators=(',', ':')) }}|{{ x|tojson(ensure_ascii=true) }}|{{ x|tojson(true) }}", {"x": {"b": "é😀\x7f", "a": [1, 2]}}),
    ("{{ x|tojson(indent=1, separators=(',', ': '), sort_keys=True) }}", {"x": {"b": [1, 2], "a": 1}}),
    "{{ (1, 2)|tojson }} {{ {1: 2}|tojson }} {{ {none: 2}|tojson }} {{ 'a'|tojson }} {{ none|tojson }} {{ -0.0|tojson }}",
    "{{ [1]|map('string')|tojson }}",
    "{{ namespace(a=1)|tojson }}",
    ("{{ x|tojson }}", {"x": 9223372036854775808}),
    # Statements and scopes.
    "{% set x = 1 %}{% for i in [1, 2] %}{% set x = x + i %}{{ x }}{% endfor %}{{ x }}",
    "{% set x = 1 %}{% if true %}{% set x = 2 %}{% endif %}{{ x }}",
    "{% for i in [1] %}{% set y = i %}{% endfor %}{{ y is defined }}",
    "{% set ns = namespace(a=1, b=[]) %}{% for i in [1, 2] %}{% set ns.a = ns.a + i %}{% set ns.b = ns.b + [i] %}{% endfor %}{{ ns.a }}{{ ns.b }}{{ ns.c }}",
    "{% set ns = namespace({'a': 1}) %}{% set ns.t %}text {{ ns.a }}{% endset %}{{ ns.t }}",
    "{% set ns = namespace() %}{% set ns._x = 1 %}",
    "{% set a, b = 1, 2 %}{{ a }}{{ b }}{% set (c, d) = [3, 4] %}{{ c }}{{ d }}",
    "{% set a, b = [1] %}",
    "{% set x.y = 1 %}",
    "{% for a, b in [(1, 2), [3, 4]] %}{{ a }}{{ b }},{% endfor %}{% for a, (b, c) in [(1, (2, 3))] %}{{ a }}{{ b }}{{ c }}{% endfor %}",
    "{% for x in [1, 2, 3] %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.previtem }}{{ loop.nextitem }};{% endfor %}",
    "{% for x in [1, 2, 3, 4] if x is even %}{{ loop.index }}{{ x }}{{ loop.last }}{% else %}none{% endfor %}",
    "{% for x in [1, 2, 3] %}{% if x == 2 %}{% continue %}{% endif %}{{ x }}{% if x == 3 %}{% break %}{% endif %}{% endfor %}",
    "{% for x in 'abc' %}{{ x }}{{ loop.cycle('-', '+') }}{% endfor %}{% for x in range(3) %}{{ x }}{% endfor %}{{ range(5, 0, -2)|list }}{{ range(3) }}",
    "{% for x in [1, 1, 2] %}{{ loop.changed(x) }}{% endfor %}",
    "{% for x in none %}{% endfor %}",
    "{% for x in 5 %}{% endfor %}",
    "{% for x in [1] %}{{ loop.cycle() }}{% endfor %}",
    "{% break %}",
    "{% macro m(a, b=2, c=a) %}{{ a }}{{ b }}{{ c }};{% endmacro %}{{ m(1) }}{{ m(1, 3) }}{{ m(a=5, c=6) }}{{ m(1, b=none) }}{{ m(1, missing) }}{{ m() }}",
    "{% macro m(a) %}{{ a }}{% endmacro %}{{ m(1, 2) }}",
    "{% macro m(a) %}{{ a }}{% endmacro %}{{ m(b=2) }}",
    "{% macro m() %}{{ x }}{% endmacro %}{% set x = 5 %}{{ m() }}{% set x = 6 %}{{ m() }}",
    "{% macro m() %}{% set x = 1 %}{{ x }}{% endmacro %}{% set x = 5 %}{{ m() }}{{ x }}",
    "{% for i in [1, 2] %}{% macro m() %}{{ i }}{% endmacro %}{{ m() }}{% endfor %}",
    "{% set i = 9 %}{% macro m() %}{{ i }}{% endmacro %}{% for i in [1, 2] %}{{ m() }}{% endfor %}",
    "{% macro f(n) %}{{ n }}{% if n > 0 %}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(3) }}",
    "{% macro m() %}[{{ caller() }}]{% endmacro %}{% call m() %}body{% endcall %}",
    ("{% macro m() %}{{ kwargs }}{% endmacro %}{{ m(a=1) }}", {}, REFUSED),
    "{% set x %}a{{ 1 }}b{% endset %}[{{ x }}]{% set y | upper | trim %} abc {% endset %}[{{ y }}]",
    "{% filter upper %}abc{{ 'd' }}{% endfilter %}",
    "{% with a=1, b=2 %}{{ a }}{{ b }}{% endwith %}{{ a is defined }}{% set a = 5 %}{% with a=1, b=a %}{{ b }}{% endwith %}",
    "{% set x = 1 %}{% generation %}{{ x }}{% set x = 2 %}{{ x }}{% endgeneration %}{{ x }}",
    "{% for x in [1, 2] %}{%- generation -%}  {{ x }}{{ loop.index }}  {%- endgeneration -%} . {% endfor %}",
    "a\n  {% generation %}\n  b\n  {% endgeneration %}\nc",
    "{% generation %}{% raw %}{% endgeneration %}{% endraw %}{{ '{% generation %}' }}{# {% generation %} #}{% endgeneration %}",
    "{% generation %}x",
    "{{ dict(a=1, b=2) }} {{ dict([('x', 1)]) }} {{ dict({'a': 1}, a=2) }}",
    "{% for x in [1] recursive %}{{ x }}{% endfor %}{% for x in [[1, [2]], [3]] recursive %}{% if x is iterable %}<{{ loop(x) }}>{% else %}{{ x }}{{ loop.depth }}{% endif %}{% endfor %}",
    "{% include 'x' %}",
    ("{% block b %}x{% endblock %}", {}, REFUSED),
    ("{% for x in [1] %}{% with %}{% break %}{% endwith %}{% endfor %}", {}, REFUSED),
    "{{ raise_exception('no ' + 'way') }}",
    "{% if false %}{{ raise_exception('x') }}{% endif %}ok",
    "{% macro m() %}{{ raise_exception('inside') }}{% endmacro %}{% for i in [1] %}{{ m() }}{% endfor %}",
    "{{ strftime_now('%d %b %Y|%Y-%m-%d %H:%M:%S|%A %B %j %p %I %y|%-d %e|%a %f %%') }}",
    "{{ strftime_now is defined }} {{ raise_exception is callable }} {{ tools is none }} {{ documents is none }} {{ messages|length }}",
    # Tests.
    ("{{ s is string }} {{ d is mapping }} {{ l is sequence }} {{ s is sequence }} {{ d is sequence }} {{ d is iterable }} {{ n is none }} {{ t is boolean }} {{ f is number }} {{ t is number }} {{ 1 is integer }} {{ t is integer }} {{ f is float }} {{ missing is sequence }} {{ missing is iterable }} {{ 5 is iterable }} {{ n is iterable }}", D),
    "{{ 3 is odd }} {{ -3 is odd }} {{ 4 is even }} {{ 4 is divisibleby 2 }} {{ 4 is divisibleby(3) }} {{ 'a' is eq 'a' }} {{ 1 is ne(2) }} {{ 1 is lt 2 }} {{ 1 is in [1] }} {{ none is not none }} {{ true is sameas true }} {{ false is false }} {{ 1 is true }}",
    "{{ 'A' is upper }} {{ 'a' is lower }} {{ 'upper' is filter }} {{ 'odd' is test }} {{ 'nope' is filter }}",
    "{{ x is defined and x }} {{ not x is defined }} {{ x is not defined or 1 }}",
    "{{ 'a' if x is defined else 'b' }}",
    "{{ 1 is odd is true }}",
    "{{ -1 is number }} {{ 1 + 1 is number }}",
    "{{ missing is callable }} {{ 'x' is callable }}",
    # Jinja's own notions of scope.
    ("{% for x in [1] %}{% continue %}{% else %}e{% endfor %}", {}, REFUSED),
    ("{% for x in [1] %}{{ v }}{% endfor %}{% set v = 1 %}{{ v }}", {"v": 7}, REFUSED),
    ("{% for x in [1] %}{{ v }}{% endfor %}{% set v = 1 %}{{ v }}", {}),
    ("{% for x in [1] %}{{ v }}{% endfor %}{% if x %}{% set v = 1 %}{% endif %}{{ v }}", {"v": 7}),
    ("{{ v }}{% for x in [1] %}{{ v }}{% set v = 8 %}{{ v }}{% endfor %}{% set v = 1 %}{{ v }}", {"v": 7}),
    "{% set x %}{% set y = 1 %}{{ y }}{% endset %}{{ x }}{{ y is defined }}",
    "{% filter upper %}{% set y = 'a' %}{{ y }}{% endfilter %}{{ y is defined }}",
    "{% for x in [] %}{% else %}{% set y = 1 %}{{ y }}{% endfor %}{{ y is defined }}",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "{{ [{}, {}]|unique|list }}",
    "{% for x in [1, 2] %}{% for y in [1] %}{{ loop.index }}{% endfor %}{{ loop.index }}{% endfor %}",
    "{% macro m(x='d') %}{{ x }}{% endmacro %}{{ m(missing) }}|{{ m(none) }}|{{ m(x=missing) }}|{{ m() }}",
    # Macros and the variables around them.
    "{% for y in 'ab' %}{% macro m() %}{{ l }}{% endmacro %}{{ l }}{{ m() }}{% set l = y %}{{ m() }};{% endfor %}",
    "{% macro c() %}<{{ caller() }}>{% endmacro %}{% for y in 'ab' %}{{ l }}{% call c() %}{{ l }}{{ y }}{% endcall %}{% set l = y %}{% call c() %}{{ l }}{% endcall %};{% endfor %}",
    "{% for x in [[1],[2, [3]]] recursive %}{% generation %}{% if x is iterable %}<{{ loop(x) }}>{% else %}{{ x }}{% endif %}{% endgeneration %}{{ loop.index }}{% endfor %}",
    "{% for x in [1, 2, 3] %}{% macro m() %}{{ x }}{% endmacro %}{% for y in [1, 2] %}{% if y == 2 %}{% continue %}{% endif %}{{ m() }}{% endfor %}{% endfor %}",
    "{% macro c() %}<{{ caller() }}>{% endmacro %}{% for y in 'ab' %}{% call c() %}{{ y }}{{ loop.index }}{% endcall %}{% if loop.first %}{% continue %}{% endif %}z{% endfor %}",
    ("{% for x in [1] %}{% macro m() %}{{ x }}{% endmacro %}{{ m() }}{% break %}{% endfor %}", {}, REFUSED),
    "{% set x = 1 %}{% macro m() %}{% set x = x ~ 'a' %}{{ x }}{% endmacro %}{{ m() }}",
    "{% set x = 1 %}{% macro m() %}{% set x %}{{ x }}b{% endset %}{{ x }}{% endmacro %}{{ m() }}",
    "{% set x = 'a' %}{% macro m() %}{% filter replace(x, 'Z') %}abc{% endfilter %}{% endmacro %}{{ m() }}",
    "{% set x = 'a' %}{% macro m() %}{% with x = x ~ 'q' %}{{ x }}{% endwith %}{% endmacro %}{{ m() }}",
    "{% set x = 'a' %}{% macro n() %}[{{ caller() }}]{% endmacro %}{% macro m() %}{% call n() %}{{ x }}{% endcall %}{% endmacro %}{{ m() }}",
    "{% set x = 'a' %}{% macro m(p=x) %}{{ p }}{% endmacro %}{{ m() }}",
    "{% set x = 'abc' %}{% macro m() %}{{ x[1:] }}{% for x in x %}{{ x }}{% endfor %}{% endmacro %}{{ m() }}",
    "{% set x = 'abc' %}{% macro m() %}{% macro k() %}{{ x }}{% endmacro %}{{ k() }}{% endmacro %}{{ m() }}",
    "{% set x = 'abc' %}{% macro m() %}{% macro k() %}{% set x = x ~ 1 %}{{ x }}{% endmacro %}{{ k() }}{% endmacro %}{{ m() }}",
    "{% for x in [1,2] %}{% macro m() %}{{ x }}{{ loop.index }}{% endmacro %}{{ m() }}{% endfor %}",
    "{% set ns = namespace(a=1) %}{% macro m() %}{% set ns.a = ns.a + 1 %}{% endmacro %}{{ m() }}{{ ns.a }}",
    "{% set x=1 %}{% macro m() %}{% if false %}{% set x = 3 %}{% endif %}{{ x }}{% endmacro %}{{ m() }}",
    "{% set x=1 %}{% macro m() %}{% set x = x if x else 9 %}{{ x }}{% endmacro %}{{ m() }}{% set x=2 %}{{ m() }}",
    "{% macro m(a) %}{% set a = a or 'd' %}{{ a }}{% endmacro %}{{ m(missing) }}{{ m('') }}",
    "{% macro a() %}{{ b() }}{% endmacro %}{% macro b() %}B{% endmacro %}{{ a() }}",
    "{% if true %}{% macro a() %}A{% endmacro %}{% endif %}{{ a() }}",
    "{% for i in [1] %}{% macro a() %}A{{ i }}{% endmacro %}{% set i = 5 %}{{ a() }}{% endfor %}",
    # White space.
    "a\n{% if true %}\nb\n{% endif %}\nc\n",
    "a\n   {% if true %}   \n  b\n   {% endif %}\n\nc\n\n",
    "a {%- if true -%} b {%- endif -%} c",
    "  {{- 'a' -}}  \n b {{ 'c' }}\n d",
    "  {%+ if true %}x{% endif %}\n  {#- gone -#}  y {# z #}\nw",
    "x  {# c #}\n  {# d #}\n  {#+ e +#}\ny",
    "{{ 'a' }}\n{{ 'b' }}\n\n",
    "a\r\n{% if true %}\r\nb\r{% endif %}\r\nc\r\n",
    "  {% raw %}\n {{ x }}\n  {% endraw %}\n y",
    "x {%- raw -%} {{ x }} {%- endraw -%} y",
    "{% if true %}  \n  {%- if true %}\n x {% endif +%}\n y{% endif %}\n",
    "\u00a0{%- if true -%}\u00a0\u2003x\u00a0{%- endif -%}\u00a0y",
    "{{ '}}' }}{{ {'a': {'b': 1}}['a']['b'] }}{{ '%}' }}",
    "{% set x = {'a': 1,\n 'b': [1,\n 2]} %}{{ x }}",
    "{{ x",
    "{% if x %}",
    "{{ x }",
    "{% endif %}",
    "{# open",
    "{% nope %}",
    "{{ 1 + }}",
    "{{ (1 }}",
    "{{ a b }}",
    "{{ 'open }}",
]


if __name__ == "__main__":
    main()
