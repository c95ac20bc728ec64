//! Templates against what `transformers` makes of them, and against what they must not do.

use std::collections::BTreeMap;
use std::fs;

use serde_json::{Value, json};

use super::{Chat, ChatTemplate};

fn template(source: &str) -> ChatTemplate {
    ChatTemplate::new(source, vec![("bos_token".to_owned(), "<s>".to_owned())]).unwrap()
}

fn chat(messages: Value) -> Chat {
    let messages = serde_json::from_value(messages).unwrap();
    Chat { messages, add_generation_prompt: true, ..Chat::default() }
}

fn hello() -> Chat {
    chat(json!([{ "role": "user", "content": "hello" }]))
}

fn render(source: &str) -> Result<String, String> {
    template(source).render(&hello()).map_err(|error| error.message().to_owned())
}

/// The templates are written in the formats of the families, and use what theirs do; `record.py` has the cases.
#[test]
fn texts_are_those_of_transformers() {
    let sources: BTreeMap<&str, &str> = [
        ("llama3", include_str!("llama3.jinja")),
        ("qwen2", include_str!("qwen2.jinja")),
        ("qwen3", include_str!("qwen3.jinja")),
        ("gemma2", include_str!("gemma2.jinja")),
        ("gemma3", include_str!("gemma3.jinja")),
        ("mistral", include_str!("mistral.jinja")),
        ("constructs", include_str!("constructs.jinja")),
    ]
    .into();
    let recorded: Value = serde_json::from_str(include_str!("recorded.json")).unwrap();
    let mut wrong = Vec::new();
    let mut compared = 0;
    for case in recorded["cases"].as_array().unwrap() {
        let special: Vec<(String, String)> =
            serde_json::from_value::<BTreeMap<String, String>>(case["special"].clone()).unwrap().into_iter().collect();
        let name = case["template"].as_str().unwrap();
        let template = ChatTemplate::new(sources[name], special).unwrap();
        let mut variables = case["kwargs"].as_object().unwrap().clone();
        let tools = variables.shift_remove("tools").map(|tools| serde_json::from_value(tools).unwrap());
        let add_generation_prompt = variables.shift_remove("add_generation_prompt") == Some(json!(true));
        let messages = recorded["chats"][case["chat"].as_str().unwrap()].clone();
        let chat = Chat { tools, add_generation_prompt, variables, ..chat(messages) };
        let found = template.render(&chat);
        compared += 1;
        if found.as_ref().ok().map(String::as_str) != case["text"].as_str() {
            let (chat, kwargs, expected) = (&case["chat"], &case["kwargs"], &case["text"]);
            wrong.push(format!("{name}, {chat} with {kwargs}\nexpected {expected}\nfound    {found:?}"));
        }
    }
    assert!(wrong.is_empty(), "{} of {compared}\n{}", wrong.len(), wrong.join("\n"));
    assert!(compared > 250, "{compared}");
}

#[test]
fn what_a_template_refuses_is_told() {
    for (source, expected) in [
        ("{{ raise_exception('No poets here') }}", "line 1: No poets here"),
        ("\n{{ messages[0].nothing.more }}", "line 2: undefined value"),
        ("{{ nowhere() }}", "line 1: nowhere is unknown"),
        ("{{ messages | nowhere }}", "filter nowhere is unknown"),
        ("{{ messages[0].content + 1 }}", "cannot add a value that is string and one that is number"),
        ("{{ strftime_now('%Q') }}", "has a directive that is not known"),
        ("{{ nothing | tojson }}", "a value that is undefined has no JSON"),
        ("{% include 'other' %}", "tried to include non-existing template \"other\""),
    ] {
        let error = render(source).unwrap_err();
        assert!(error.starts_with("the chat template cannot write these messages: "), "{error}");
        assert!(error.contains(expected), "expected {expected:?} in {error}");
    }
    let error = ChatTemplate::new("a\n{% for %}", Vec::new()).unwrap_err();
    assert!(error.message().starts_with("the chat template \"default\" is broken: line 2: "), "{error}");
    let error = template("").render(&chat(json!([]))).unwrap_err();
    assert_eq!(error.message(), "a chat has at least one message");
}

/// No template is trusted. Each of these would take all memory, all time, or the stack.
#[test]
fn hostile_templates_end_with_an_error() {
    let doubled =
        "{% set ns = namespace(s='0123456789') %}{% for i in range(60) %}{% set ns.s = ns.s DOUBLED %}{% endfor %}";
    let repeated = "{% for i in range(100000) %}{% for j in range(100000) %}BODY{% endfor %}{% endfor %}";
    let nested = "{% set ns = namespace(x=[]) %}{% for i in range(90000) %}{% set ns.x = [ns.x] %}{% endfor %}";
    let large = "{% set s = '0123456789' * 100000 %}";
    for (source, expected) in [
        (repeated.replace("BODY", ""), "it does not end within"),
        (repeated.replace("BODY", "some text that is written"), ""),
        (repeated.replace("BODY", &"text ".repeat(10_000)), "too much text"),
        (doubled.replace("DOUBLED", "~ ns.s"), "too much text"),
        (doubled.replace("DOUBLED", "+ ns.s"), "too much text"),
        (doubled.replace("DOUBLED", "* 2"), "too much text"),
        (doubled.replace("DOUBLED", "| replace('0', '000')"), "too much text"),
        (doubled.replace("DOUBLED", ".replace('0', '000')"), "too much text"),
        (doubled.replace("'0123456789'", "[0]").replace("DOUBLED", "+ ns.s"), "too much text"),
        (
            "{% set ns = namespace(s='0') %}{% for i in range(60) %}{% set t %}{{ ns.s }}{{ ns.s }}{% endset %}\
          {% set ns.s = t %}{% endfor %}"
                .to_owned(),
            "too much text",
        ),
        (
            "{% set ns = namespace(l=[]) %}{% set s = 'a' * 100000 %}{% for i in range(90000) %}\
          {% set ns.l = [ns.l, s.upper()] %}{% endfor %}"
                .to_owned(),
            "too much text",
        ),
        ("{{ 'a' * 99999999 ~ 'a' * 99999999 }}".to_owned(), "too much text"),
        ("{{ ('a' * 99999999) | length }}".to_owned(), "too much text"),
        ("{{ ([1] * 999999999) | join('') }}".to_owned(), "too much text"),
        ("{{ ([1] * 999999999) ~ '' }}".to_owned(), "too much text"),
        (
            format!("{large}{{{{ s.split('1') | length }}}}{}", "{{ s.split('2') | length }}".repeat(100)),
            "too much text",
        ),
        ("{{ [1] | tojson(indent=1000000000) }}".to_owned(), "an indentation is"),
        ("{{ 'a' | indent(1000000000) }}".to_owned(), "an indentation is"),
        ("{{ '{:1000000000}'.format(1) }}".to_owned(), "a field is too wide"),
        ("{{ 'abc'.count('') }}".to_owned(), "the text to look for is empty"),
        ("{{ 'abc'.split('') }}".to_owned(), "the text to look for is empty"),
        ("{% macro m(n) %}{{ m(n + 1) }}{% endmacro %}{{ m(0) }}".to_owned(), "recursion limit exceeded"),
        (format!("{nested}{{{{ ns.x }}}}"), "lists are more than 200 deep"),
        (format!("{nested}{{{{ ns.x | tojson }}}}"), "lists are more than 200 deep"),
        (format!("{nested}{{{{ ns.x == [1] }}}}{{{{ raise_exception('dropped') }}}}"), "dropped"),
        (format!("{{{{ {}a }}}}", "a + ".repeat(20_000)), "cannot add"),
        (format!("{{{{ {}a }}}}", "a + ".repeat(100_000)), "has 400007 bytes, more than 131072"),
        (format!("{}1{}", "{{ (".to_owned() + &"(".repeat(5000), ")".repeat(5001) + " }}"), ""),
    ] {
        let found = ChatTemplate::new(&source, Vec::new()).and_then(|template| template.render(&hello()));
        let beginning: String = source.chars().take(200).collect();
        let error = found.expect_err(&beginning);
        assert!(error.message().contains(expected), "expected {expected:?} in {error} of {beginning}");
    }
}

#[test]
fn templates_are_where_checkpoints_have_them() {
    let read = |files: &[(&str, &str)]| {
        let folder = tempfile::tempdir().unwrap();
        for (name, content) in files {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        let without_folder = |error: crate::Error| error.message().replace(folder.path().to_str().unwrap(), "F");
        ChatTemplate::read(folder.path()).map_err(without_folder)
    };
    let text = |files: &[(&str, &str)], tools: Option<Vec<Value>>| {
        let chat = Chat { tools, ..hello() };
        read(files).unwrap().unwrap().render(&chat).map_err(|error| error.message().to_owned())
    };
    let named = |names: &[&str]| {
        let list: Vec<Value> = names.iter().map(|name| json!({ "name": name, "template": name })).collect();
        json!({ "chat_template": list }).to_string()
    };
    let (config, tools) = ("tokenizer_config.json", || Some(vec![json!({})]));
    // GPT-2 has none.
    for files in [&[][..], &[(config, "{}")], &[(config, r#"{"chat_template": null}"#)]] {
        assert_eq!(read(files), Ok(None));
    }
    let one = json!({ "chat_template": "{{ bos_token }}{{ eos_token }}{{ messages[0].content }}|{{ unk_token }}",
                      "bos_token": { "content": "<b>" }, "eos_token": "<e>", "unk_token": null });
    let one = one.to_string();
    assert_eq!(text(&[(config, &one)], None).unwrap(), "<b><e>hello|");
    let special = ("special_tokens_map.json", r#"{"unk_token": "<u>", "bos_token": "<x>"}"#);
    assert_eq!(text(&[(config, &one), special], None).unwrap(), "<b><e>hello|<u>");
    assert_eq!(text(&[(config, &one), ("chat_template.jinja", "file {{ bos_token }}")], None).unwrap(), "file <b>");
    let both = named(&["default", "tool_use"]);
    assert_eq!(text(&[(config, &both)], None).unwrap(), "default");
    assert_eq!(text(&[(config, &both)], tools()).unwrap(), "tool_use");
    let files = [("chat_template.jinja", "one"), ("additional_chat_templates/tool_use.jinja", "two")];
    assert_eq!((text(&files, None).unwrap(), text(&files, tools()).unwrap()), ("one".to_owned(), "two".to_owned()));
    let error = text(&[(config, &named(&["rag", "other"]))], None).unwrap_err();
    assert_eq!(error, "the checkpoint has several chat templates (rag, other), and none is the default");
    for (files, expected) in [
        (&[(config, "[")][..], "F/tokenizer_config.json is not a JSON object"),
        (&[(config, r#"{"chat_template": 1}"#)], "`chat_template` of F/tokenizer_config.json is not a text or a list"),
        (&[(config, r#"{"chat_template": [{"name": "a"}]}"#)], "is not objects with `name` and `template`"),
        (&[("chat_template.jinja", "{{")], "in F: the chat template \"default\" is broken: line 1"),
    ] {
        let error = read(files).unwrap_err();
        assert!(error.contains(expected), "expected {expected:?} in {error}");
    }
}

/// Pieces that templates are made of.
const PIECES: [&str; 35] = [
    "{{ ",
    " }}",
    "{% ",
    " %}",
    "{%- ",
    " -%}",
    "for m in messages",
    "endfor",
    "if m.role == 'user'",
    "else",
    "endif",
    "messages",
    "messages[0]",
    "m.content",
    "range(1000000000)",
    "'a' * 1000000000",
    "~",
    "|tojson",
    "|join(', ')",
    "|trim",
    "set x = [1] * 100000000",
    "macro f(x)",
    "endmacro",
    "f(f)",
    "loop.index0",
    "raise_exception('no')",
    "x",
    "namespace(a=1)",
    "strftime_now('%Y')",
    ".split('')",
    "[::-1]",
    "break",
    "(",
    ")",
    "{",
];

proptest::proptest! {
    /// Whatever a template is made of, it is refused, fails or ends.
    #[test]
    fn no_template_panics(pieces in proptest::collection::vec(proptest::sample::select(&PIECES[..]), 0..14)) {
        let source = pieces.concat();
        if let Ok(template) = ChatTemplate::new(&source, Vec::new()) {
            _ = template.render(&hello());
        }
    }

    /// A template of a family with some changed bytes.
    #[test]
    fn no_changed_template_panics(
        which in 0..3_usize,
        changes in proptest::collection::vec((proptest::prelude::any::<proptest::sample::Index>(), 0..128_u8), 1..6),
    ) {
        let sources = [include_str!("qwen3.jinja"), include_str!("llama3.jinja"), include_str!("mistral.jinja")];
        let mut source = sources[which].as_bytes().to_vec();
        for (at, byte) in changes {
            let at = at.index(source.len());
            source[at] = byte;
        }
        if let Ok(source) = String::from_utf8(source)
            && let Ok(template) = ChatTemplate::new(&source, Vec::new())
        {
            _ = template.render(&hello());
        }
    }
}
