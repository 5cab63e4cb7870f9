#!/usr/bin/env python3
"""Writes tests/golden/chat/templates.json: what jinja2, set up as transformers does, makes of chat templates.

usage: make_chat_template_goldens.py OUTPUT_DIRECTORY [MODEL.gguf …]

The templates are written for this purpose, in the manner of common families. Those of GGUF files named are only compared with
the "smollm" one, not stored.
"""
import datetime
import json
import pathlib
import platform
import sys

import jinja2
import jinja2.ext
import jinja2.sandbox

NOW = datetime.datetime(2025, 3, 9, 14, 5, 6)

CHATML = """{%- for message in messages %}
    {{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""
SMOLLM = ("{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\\nBe "
          "helpful.<|im_end|>\\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' "
          "+ '\\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}")
QWEN2 = """{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0].role == 'system' %}{{- messages[0].content + '\\n\\n' }}{%- endif %}
    {{- "# Tools\\n<tools>" }}
    {%- for tool in tools %}
        {{- "\\n" }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- "\\n</tools><|im_end|>\\n" }}
{%- else %}
    {%- if messages[0]['role'] == 'system' %}
        {{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}
    {%- else %}
        {{- '<|im_start|>system\\nThe default one.<|im_end|>\\n' }}
    {%- endif %}
{%- endif %}
{%- for message in messages %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) or (message.role == "assistant" and not message.tool_calls) %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {{- '<|im_start|>' + message.role }}
        {%- for tool_call in message.tool_calls %}
            {%- if tool_call.function is defined %}
                {%- set tool_call = tool_call.function %}
            {%- endif %}
            {{- '\\n<call>{"name": "' }}{{- tool_call.name }}{{- '", "arguments": ' }}{{- tool_call.arguments | tojson }}{{- '}</call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == "tool" %}
        {%- if (loop.index0 == 0) or (messages[loop.index0 - 1].role != "tool") %}
            {{- '<|im_start|>user' }}
        {%- endif %}
        {{- '\\n<result>' }}{{- message.content }}{{- '</result>' }}
        {%- if loop.last or (messages[loop.index0 + 1].role != "tool") %}
            {{- '<|im_end|>\\n' }}
        {%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""
QWEN3 = """{%- set ns = namespace(multi_step=true, last_query=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi_step and message.role == "user" and message.content is string and not(message.content.startswith('<result>') and message.content.endswith('</result>')) %}
        {%- set ns.multi_step = false %}
        {%- set ns.last_query = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.content is string %}
        {%- set content = message.content %}
    {%- else %}
        {%- set content = '' %}
    {%- endif %}
    {%- if message.role == "assistant" %}
        {%- set reasoning = '' %}
        {%- if message.reasoning_content is string %}
            {%- set reasoning = message.reasoning_content %}
        {%- elif '</think>' in content %}
            {%- set reasoning = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {%- if loop.index0 > ns.last_query and (loop.last or reasoning) %}
            {{- '<|im_start|>' + message.role + '\\n<think>\\n' + reasoning.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') }}
        {%- else %}
            {{- '<|im_start|>' + message.role + '\\n' + content }}
        {%- endif %}
        {{- '<|im_end|>\\n' }}
    {%- else %}
        {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}
"""
LLAMA2 = """{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% set system_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}{% set system_message = false %}{% endif %}{% for message in loop_messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Roles must take turns: user, assistant, user, …') }}{% endif %}{% if loop.index0 == 0 and system_message %}{% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}{% else %}{% set content = message['content'] %}{% endif %}{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}{% elif message['role'] == 'assistant' %}{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"""
LLAMA3 = """{{- bos_token }}
{%- if custom_tools is defined %}
    {%- set tools = custom_tools %}
{%- endif %}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}
        {%- set date_string = "26 Jul 2024" %}
    {%- endif %}
{%- endif %}
{%- if not tools is defined %}
    {%- set tools = none %}
{%- endif %}
{#- the system message #}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{%- if tools is not none %}
    {{- "Environment: ipython\\n" }}
{%- endif %}
{{- "Today Date: " + date_string + "\\n\\n" }}
{%- if tools is not none %}
    {%- for t in tools %}
        {{- t | tojson(indent=4) }}
        {{- "\\n\\n" }}
    {%- endfor %}
{%- endif %}
{{- system_message }}
{{- "<|eot_id|>" }}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + '<|eot_id|>' }}
    {%- elif 'tool_calls' in message %}
        {%- if not message.tool_calls|length == 1 %}
            {{- raise_exception("One tool call at a time!") }}
        {%- endif %}
        {%- set tool_call = message.tool_calls[0].function %}
        {%- for arg_name, arg_val in tool_call.arguments | items %}
            {{- arg_name + '="' + arg_val + '"' }}
            {%- if not loop.last %}{{- ", " }}{%- endif %}
        {%- endfor %}
    {%- elif message.role == "tool" or message.role == "ipython" %}
        {%- if message.content is mapping or message.content is iterable and message.content is not string %}
            {{- message.content | tojson }}
        {%- else %}
            {{- message.content }}
        {%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""
ZEPHYR = """{% for message in messages %}
{% if message['role'] == 'user' %}
{{ '<|user|>\\n' + message['content'] + eos_token }}
{% elif message['role'] == 'system' %}
{{ '<|system|>\\n' + message['content'] + eos_token }}
{% elif message['role'] == 'assistant' %}
{{ '<|assistant|>\\n'  + message['content'] + eos_token }}
{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}"""
MISTRAL = """{%- if messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}
{%- set user_messages = loop_messages | selectattr("role", "equalto", "user") | list %}
{%- set ns = namespace() %}
{%- set ns.index = 0 %}
{%- for message in loop_messages %}
    {%- if message["role"] == "user" or (message["role"] == "assistant" and message.tool_calls is not defined) %}
        {%- if (message["role"] == "user") != (ns.index % 2 == 0) %}
            {{- raise_exception("user and assistant take turns") }}
        {%- endif %}
        {%- set ns.index = ns.index + 1 %}
    {%- endif %}
{%- endfor %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if message["role"] == "user" %}
        {%- if loop.last and system_message is defined %}
            {{- "[INST] " + system_message + "\\n\\n" + message["content"] + "[/INST]" }}
        {%- elif message == user_messages[-1] %}
            {{- "[INST] last: " + message["content"] + "[/INST]" }}
        {%- else %}
            {{- "[INST] " + message["content"] + "[/INST]" }}
        {%- endif %}
    {%- elif message["role"] == "assistant" %}
        {{- " " + message["content"]|trim + eos_token}}
    {%- elif message["role"] in ["tool", "tool_results"] %}
        {{- "[RESULTS]" ~ message.content|string ~ "[/RESULTS]" }}
    {%- else %}
        {{- raise_exception("Only user, system and assistant roles are supported, found " ~ message.role) }}
    {%- endif %}
{%- endfor %}
"""
FAMILIES = {"chatml": CHATML, "smollm": SMOLLM, "qwen2": QWEN2, "qwen3": QWEN3, "llama2": LLAMA2, "llama3": LLAMA3,
            "zephyr": ZEPHYR, "mistral": MISTRAL}

USER, ANSWER = {"role": "user", "content": " How far is \u65e5\u672c?\n"}, {"role": "assistant", "content": "Far. \U0001f999"}
SYSTEM = {"role": "system", "content": "Be brief."}
THINKING = {"role": "assistant", "content": "<think>\nHm.\n</think>\n\nFar."}
CALL = {"role": "assistant", "content": "",
        "tool_calls": [{"type": "function", "function": {"name": "far", "arguments": {"to": "Madrid", "by": "foot"}}}]}
RESULT = {"role": "tool", "content": "12 \u00fc"}
TOOL = {"type": "function", "function": {"name": "far", "parameters": {"type": "object", "n": [1, 2.5, True, None, []], "o": {}}}}
INPUTS = [
    dict(messages=[USER]), dict(messages=[USER], add_generation_prompt=True),
    dict(messages=[SYSTEM, USER, ANSWER, USER], add_generation_prompt=True),
    dict(messages=[SYSTEM, USER, THINKING, USER, THINKING]),
    dict(messages=[USER, CALL, RESULT, RESULT, ANSWER], tools=[TOOL], add_generation_prompt=True),
    dict(messages=[USER], add_generation_prompt=True, enable_thinking=False, date_string="1 Jan 2024"),
    dict(messages=[USER, USER]), dict(messages=[{"role": "judge", "content": "x"}]),
]

# Small ones: an expression in {{ }}, or a whole template.
EXPRESSIONS = r"""
1 + 2 * 3 - 4 // 3 % 5
7 // -2 ~ ' ' ~ -7 % 3 ~ ' ' ~ 7 % -3
1 / 2
2.5 * 2
'a' ~ 1 ~ none ~ true ~ missing
'ab' * 3
not true or false and true
1 < 2 < 3
(1 < 2) and (2 >= 2) and ('a' < 'b') and ('b' != 'a')
'x' in 'xyz' and 'q' not in ['a', 'b'] and 'k' in {'k': 1}
1 == 1.0 and true == 1
none == missing
'yes' if 1 else 'no'
('only' if 0) ~ '.'
-3|string ~ '|' ~ (-3)|string
'a' 'b' "c"
'\u00e9\x41\\\'\"\t\q'
[1, 2, 3][-1] ~ [1, 2, 3][7] ~ 'héllo'[1] ~ 'héllo'[-9]
'héllo'[1:3] ~ 'héllo'[::-1] ~ 'héllo'[:-2] ~ 'héllo'[-2:] ~ 'héllo'[9:] ~ 'abcdef'[4:1:-2] ~ 'abcdef'[::3]
[1, 2, 3, 4][1:3]|join(',') ~ [1, 2][::-1]|join
(1, 2)[0] ~ {'a': {'b': 5}}.a.b ~ {'a': 1}['a'] ~ {'a': 1}.get('z', 9) ~ {'a': 1}.get('z')
{'a': 1, 'b': 2}.items()|list|length ~ {'a': 1}.keys()|first ~ {'a': 1, 'b': 7}.values()|last
'  x '.strip() ~ '|' ~ '  x '.lstrip() ~ '|' ~ '  x '.rstrip() ~ '|' ~ 'xxaxx'.strip('x') ~ '|' ~ ('\u3000 a\xa0')|trim
'abc'.startswith('ab') ~ 'abc'.endswith(('x', 'bc')) ~ 'abc'.startswith('b')
'a,b,,c'.split(',')|join('|') ~ ' a  b c '.split()|join('|') ~ 'a b c'.split(' ', 1)|join('|') ~ ' a b  c '.split(none, 1)|join('|')
'aXbX'.replace('X', 'yy') ~ 'aXbX'.replace('X', '', 1) ~ ('aa'|replace('a', 'b'))
'ÄbC'.upper() ~ 'ÄbC'.lower() ~ ('äb cd'|capitalize) ~ 'ab cd-e,f'.title() ~ ('ab cd-e,f'|title) ~ ('ÄB'|lower) ~ ('äb'|upper)
'héy'.find('y') ~ 'abab'.count('ab') ~ 'x'.find('q') ~ 'a\nb\r\nc'.splitlines()|join('|') ~ '-'.join(['a', 'b'])
'héllo'|length ~ [1, 2]|length ~ {'a': 1}|count ~ missing|length
missing|default('d') ~ ''|default('e') ~ ''|default('f', true) ~ none|d('g', boolean=true)
[3, 1]|first ~ [3, 1]|last ~ ([]|first) ~ 'ab'|last ~ 'ab'|list|join('-') ~ 'ab'|reverse
('12'|int + ' 7 '|int) ~ 'x'|int ~ 'x'|int(5) ~ 3.9|int ~ -3.9|int
[{'n': 'a', 'v': 1}, {'n': 'b', 'v': 0}, {'n': 'c'}]|selectattr('v')|map(attribute='n')|join(',')
[{'n': 'a', 'v': 1}, {'n': 'b', 'v': 0}, {'n': 'c'}]|rejectattr('v', 'defined')|map(attribute='n')|join(',')
[{'n': {'x': 1}}, {}]|map(attribute='n.x', default='-')|join(',')
['a', ' b ']|map('trim')|map('upper')|join(',') ~ [1, 2, 3, 4]|select('odd')|list|length ~ [0, 1, '']|reject|list|length
[1, 2]|join(' ') ~ [{'a': 1}, {'a': 2}]|join('-', attribute='a')
{'a': [1, 'é"\n<', none, true, 2.0, 0.5], 'b': {}}|tojson
{'a': [1, {'b': []}], 'c': 'x'}|tojson(indent=2)
[]|tojson ~ {}|tojson(indent=1) ~ 'a/b\u2028'|tojson
missing is defined ~ missing is undefined ~ 1 is defined ~ none is none ~ none is not none ~ missing is none
'a' is string ~ 1 is string ~ {} is mapping ~ [] is mapping ~ 'a' is iterable ~ 1 is iterable ~ [] is sequence ~ missing is sequence ~ missing is iterable
1 is number ~ true is number ~ 1 is integer ~ true is integer ~ 1.5 is float ~ true is boolean ~ 0 is boolean ~ true is true ~ 1 is true
4 is even ~ 3 is odd ~ 6 is divisibleby 3 ~ 6 is divisibleby(4) ~ 1 is eq 1 ~ 1 is in [1, 2] ~ 2 is gt 1 ~ 'a' is ne 'b'
not missing is defined and 1 is not string
range(4)|join ~ range(1, 8, 3)|join(',') ~ range(3, 0, -1)|join
dict(a=1, b='x')|tojson ~ namespace(a=4).a
strftime_now('%Y-%m-%d %H:%M')
[1, [2, 3]] == [1, [2, 3]] and {'a': 1} == {'a': 1} and [1] != (1,)
((1, 2) + (3,))|length ~ ([1] + [2])|join
messages|map(attribute='content')|join('|')|trim
messages[0].nothing is defined ~ messages[0]['content'].strip()|length ~ messages[5]
none.x is defined ~ (5).x is defined
true and 'a' or 'b'
'%s' if false else '100%'
""".strip("\n").split("\n")
TEMPLATES = [
    "a\n", "a\n\n", "a\r\nb\rc", "", "\n", "{{ 'x' }}\n", "{{ 'x' }}\n\n", "  {{ 'x' }}  \n y",
    "  {% if true %}  \n  x\n  {% endif %}\n  y", "a {%- if true -%}  \n b  {%- endif %} c", "  {%+ if true +%}\n  x{% endif %}\n",
    "a  {#- gone -#}  b\n  {# line #}\nc {# x #} d", "x\n   {{- 1 }}\n {{ 2 -}}  \n  3", "{% if true %}\n\n x {% endif %}\t\n y",
    "a\n\t{% if 1 %}b{% endif %}\t{% if 1 %}c{% endif %}\n{% if 0 %}{% endif %}  {% if 1 %}d{% endif %}",
    "{% set x = 1 %}{% for i in [1, 2] %}{% set x = x + i %}{{ x }}{% endfor %}{{ x }}",
    "{% if true %}{% set x = 5 %}{% endif %}{{ x }}", "{% set a, b = 1, 'q' %}{{ a ~ b }}",
    "{% set t %}\n a{{ 1 }}\n{% endset %}[{{ t }}]", "{% set ns = namespace(n=0) %}{% for i in range(5) %}{% set ns.n = ns.n + i %}{% endfor %}{{ ns.n }}",
    "{% for k, v in {'a': 1, 'b': 2}.items() %}{{ k }}={{ v }}{{ ', ' if not loop.last }}{% endfor %}",
    "{% for i in [1, 2, 3, 4] if i is even %}{{ loop.index }}{{ i }}{{ loop.first }}{{ loop.last }}{{ loop.length }};{% else %}none{% endfor %}",
    "{% for i in [] %}x{% else %}none{% endfor %}{% for i in missing %}x{% else %}nothing{% endfor %}",
    "{% for i in 'abc' %}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.index0 }}{{ loop.previtem }}{{ loop.nextitem }} {% endfor %}",
    "{% for i in range(9) %}{% if i == 2 %}{% continue %}{% endif %}{% if i == 5 %}{% break %}{% endif %}{{ i }}{% endfor %}",
    "{% for i in [1, 2] %}{% for j in [3] %}{{ loop.index }}{{ i }}{{ j }}{% endfor %}{{ loop.index }}{% endfor %}",
    "{% for (a, b) in [(1, 2), [3, 4]] %}{{ a }}{{ b }}{% endfor %}{{ a is defined }}",
    "{% if 0 %}a{% elif '' %}b{% elif [0] %}c{% else %}d{% endif %}", "{{ '{{' }}{{ \"%}\" }}{{ {'a': {'b': 1}}['a']['b'] }}",
    "{%if true%}x{%endif%}{{1}}{{-1}}", "{{ [1,\n 2,\n][1] }}\n{{ {'a': 1,}.a }}", "{ {% if 1 %}{{ '{' }}{% endif %} }% #}",
    "{% set messages = messages[1:] %}{{ messages|length }}", "{% for m in messages %}{{ m.role }}{% if not loop.last %}, {% endif %}{% endfor %}",
]


def refuse(message):
    raise jinja2.exceptions.TemplateError(message)


def environment():
    env = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True,
                                                       extensions=[jinja2.ext.loopcontrols])
    env.filters["tojson"] = lambda x, ensure_ascii=False, indent=None: json.dumps(x, ensure_ascii=ensure_ascii, indent=indent)
    env.globals.update(raise_exception=refuse, strftime_now=NOW.strftime)
    return env


def render(env, source, variables):
    values = dict(tools=None, documents=None, add_generation_prompt=False, bos_token="<s>", eos_token="</s>")
    try:
        return {"text": env.from_string(source).render(**{**values, **variables})}
    except (jinja2.exceptions.TemplateError, TypeError) as error:
        return {"error": str(error)}


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    env = environment()
    families = [{"name": name, "template": source, "results": [render(env, source, given) for given in INPUTS]}
                for name, source in FAMILIES.items()]
    small = []
    for source in ["{{ " + expression + " }}" for expression in EXPRESSIONS] + TEMPLATES:
        result = render(env, source, dict(messages=[SYSTEM, USER]))
        if "error" in result:
            sys.exit(f"{source}: {result}")
        small.append({"template": source, **result})
    for path in sys.argv[2:]:
        import gguf
        source = gguf.GGUFReader(path).fields["tokenizer.chat_template"].contents()
        print(path, source == SMOLLM, [render(env, source, given) for given in INPUTS[:3]])
    golden = {"versions": {"python": platform.python_version(), "jinja2": jinja2.__version__}, "now": int(NOW.replace(
        tzinfo=datetime.timezone.utc).timestamp()), "inputs": INPUTS, "families": families, "small": small}
    directory = pathlib.Path(sys.argv[1])
    directory.mkdir(parents=True, exist_ok=True)
    text = json.dumps(golden, separators=(",", ":")).replace('{"template":', '\n{"template":').replace('{"name":"', '\n{"name":"')
    (directory / "templates.json").write_text(text + "\n", encoding="ascii")


if __name__ == "__main__":
    main()
