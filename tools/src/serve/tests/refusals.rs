//! What is refused: with a status, and with the field that is wrong.

use proptest::prelude::*;

use super::*;

/// Asserts that a request is refused for `param`, with a message that has `expected`.
#[track_caller]
fn refused(answer: &Answer, status: u16, param: Value, expected: &str) {
    assert_eq!(answer.status, status, "{}", answer.text);
    let error = answer.json()["error"].clone();
    assert_eq!(error["param"], param, "{error}");
    assert!(error["message"].as_str().unwrap().contains(expected), "expected {expected:?} in {error}");
    assert!(error["type"].is_string() && error.get("code").is_some(), "{error}");
}

#[test]
fn a_wrong_field_of_a_completion_is_named() {
    let server = Setup::default().start();
    for (more, param, expected) in [
        (json!({ "prompt": null }), "prompt", "`prompt` is missing"),
        (
            json!({ "prompt": 3 }),
            "prompt",
            "`prompt` is a string, an array of strings or an array of tokens, found a number",
        ),
        (json!({ "prompt": [] }), "prompt", "from 1 to 256 texts, found 0"),
        (json!({ "prompt": ["a", {}] }), "prompt[1]", "is a string or an array of tokens, found an object"),
        (json!({ "prompt": [1, "a"] }), "prompt[1]", "is a token from 0 to 256, found a string"),
        (json!({ "prompt": [257] }), "prompt[0]", "is a token from 0 to 256, found 257"),
        (json!({ "prompt": [[]] }), "prompt", "`prompt` has no tokens"),
        (
            json!({ "prompt": "a".repeat(1000) }),
            "prompt",
            "has 1001 tokens, and prompt and answer together have at most 1000",
        ),
        (json!({ "max_tokens": 0 }), "max_tokens", "is a whole number from 1 to 4294967295, found 0"),
        (json!({ "max_tokens": 1.5 }), "max_tokens", "found 1.5"),
        (json!({ "max_tokens": "1" }), "max_tokens", "is a whole number, found a string"),
        (json!({ "temperature": -1 }), "temperature", "is a number from 0 to 100, found -1"),
        (json!({ "temperature": 1e300 }), "temperature", "from 0 to 100, found 1e"),
        (json!({ "top_p": 0 }), "top_p", "is a number above 0 and at most 1, found 0"),
        (json!({ "min_p": true }), "min_p", "is a number, found a truth value"),
        (json!({ "presence_penalty": 3 }), "presence_penalty", "from -2 to 2"),
        (json!({ "frequency_penalty": [] }), "frequency_penalty", "found an array"),
        (json!({ "repetition_penalty": 0 }), "repetition_penalty", "found 0"),
        (json!({ "logit_bias": [] }), "logit_bias", "is an object, found an array"),
        (json!({ "logit_bias": { "x": 1 } }), "logit_bias", "names tokens from 0 to 256, found \"x\""),
        (json!({ "logit_bias": { "1": "a" } }), "logit_bias.1", "is a number, found a string"),
        (json!({ "logit_bias": { "1": 101 } }), "logit_bias.1", "is a number from -100 to 100, found 101"),
        (json!({ "n": 0 }), "n", "from 1 to 128"),
        (json!({ "n": 2, "best_of": 3 }), "best_of", "not supported beyond `n`, which is 2"),
        (json!({ "logprobs": 21 }), "logprobs", "from 0 to 20"),
        (json!({ "echo": true, "logprobs": 1 }), "echo", "which are not kept"),
        (json!({ "seed": "x" }), "seed", "is a whole number, found a string"),
        (json!({ "stop": 1 }), "stop", "is a string or an array of strings, found a number"),
        (json!({ "stop": [1] }), "stop[0]", "is a string, found a number"),
        (json!({ "stop": "" }), "stop", "a stop string is empty"),
        (json!({ "stop": vec!["a"; 17] }), "stop", "has 17 strings, and may have 16"),
        (json!({ "stop": "a".repeat(1025) }), "stop", "has 1025 bytes"),
        (json!({ "stop_token_ids": [-1] }), "stop_token_ids[0]", "found -1"),
        (json!({ "stream": 1 }), "stream", "is a truth value, found a number"),
        (json!({ "stream_options": {} }), "stream_options", "for requests with `stream`"),
        (json!({ "stream": true, "stream_options": { "x": 1 } }), "stream_options.x", "does not know the field"),
        (json!({ "model": 1 }), "model", "is a string"),
        (json!({ "suffix": "x" }), "suffix", "does not know the field `suffix`"),
    ] {
        let mut body = json!({ "prompt": "a" });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        refused(&server.complete(body), 400, json!(param), expected);
    }
    refused(
        &server.complete(json!({ "prompt": "a", "model": "gpt" })),
        404,
        json!("model"),
        "this server has \"parrot\"",
    );
    let long = server.complete(json!({ "prompt": "a".repeat(1000) })).json();
    assert_eq!(long["error"]["code"], "context_length_exceeded");
}

#[test]
fn a_wrong_field_of_a_chat_is_named() {
    let server = Setup::default().start();
    let one = |message: Value| json!({ "messages": [message] });
    for (body, param, expected) in [
        (json!({}), "messages", "`messages` is missing"),
        (json!({ "messages": [] }), "messages", "at least one message"),
        (json!({ "messages": "a" }), "messages", "is an array, found a string"),
        (one(json!("a")), "messages[0]", "is an object, found a string"),
        (one(json!({})), "messages[0].role", "is missing"),
        (one(json!({ "role": 1 })), "messages[0].role", "is a string, found a number"),
        (one(json!({ "role": "poet" })), "messages[0].role", "is one of tool, system, user, assistant"),
        (one(json!({ "role": "user" })), "messages[0].content", "is missing"),
        (one(json!({ "role": "user", "content": 1 })), "messages[0].content", "a string or an array of parts"),
        (one(json!({ "role": "user", "content": [{}] })), "messages[0].content[0].type", "is missing"),
        (one(json!({ "role": "user", "content": [{ "type": "text" }] })), "messages[0].content[0].text", "is a string"),
        (
            one(json!({ "role": "user", "content": [{ "type": "image_url" }] })),
            "messages[0].content[0].type",
            "takes nothing else",
        ),
        (one(json!({ "role": "assistant", "tool_calls": [1] })), "messages[0].tool_calls[0]", "is an object"),
        (
            one(json!({ "role": "assistant", "tool_calls": [{ "function": {} }] })),
            "messages[0].tool_calls[0].function.name",
            "missing",
        ),
        (json!({ "messages": user("a"), "tools": [{}] }), "tools[0].function", "is missing"),
        (
            json!({ "messages": user("a"), "tool_choice": "required" }),
            "tool_choice",
            "calls are not enforced; found \"required\"",
        ),
        (json!({ "messages": user("a"), "top_logprobs": 1 }), "top_logprobs", "for requests with `logprobs`"),
        (
            json!({ "messages": user("a"), "response_format": { "type": "json_object" } }),
            "response_format.type",
            "not supported",
        ),
        (json!({ "messages": user("a"), "functions": [] }), "functions", "does not know the field"),
        (json!({ "messages": user(&"a".repeat(1000)) }), "messages", "has 1017 tokens"),
    ] {
        refused(&server.chat(body), 400, json!(param), expected);
    }
    let refusing = Setup { template: Some("{{ raise_exception('No.') }}"), ..Setup::default() }.start();
    refused(&refusing.chat(json!({ "messages": user("a") })), 400, json!("messages"), "No.");
    let without = Setup { template: None, ..Setup::default() }.start();
    refused(&without.chat(json!({ "messages": user("a") })), 400, json!("model"), "has no chat template");
}

#[test]
fn other_wrong_requests() {
    let server = Setup::default().start();
    refused(&server.post_text("/v1/completions", "{"), 400, Value::Null, "the body is not JSON");
    refused(&server.post_text("/v1/completions", "[1]"), 400, Value::Null, "the body is an object, found an array");
    refused(&server.post_text("/v1/completions", &"[".repeat(9000)), 400, Value::Null, "recursion limit");
    refused(&server.post_text("/v1/completions", &" ".repeat(10_001)), 413, Value::Null, "more than 10000 bytes");
    refused(&server.get("/v1/nothing"), 404, Value::Null, "there is nothing at /v1/nothing");
    refused(&server.get("/v1/completions"), 405, Value::Null, "/v1/completions does not take GET");
    refused(&server.get("/v1/models/gpt"), 404, json!("model"), "this server has \"parrot\"");
    let embed = |body: Value| server.post("/v1/embeddings", &body);
    refused(&embed(json!({})), 400, json!("input"), "`input` is missing");
    refused(
        &embed(json!({ "input": "a", "encoding_format": "x" })),
        400,
        json!("encoding_format"),
        "\"float\" or \"base64\"",
    );
    refused(&embed(json!({ "input": "a", "dimensions": 5 })), 400, json!("dimensions"), "have 3 dimensions, not 5");
    refused(&embed(json!({ "input": [vec![97; 1001]] })), 400, json!("input"), "found 1001");
}

#[test]
fn a_server_with_a_token_asks_for_it() {
    let server = Setup { token: Some(" s3cret\n"), ..Setup::default() }.start();
    let with = |header: &str| {
        let request = server.agent.get(format!("{}/v1/models", server.base)).header("Authorization", header);
        answer(request.call()).status
    };
    assert_eq!(server.get("/health").status, 200);
    for path in ["/v1/models", "/metrics", "/nowhere"] {
        refused(&server.get(path), 401, Value::Null, "asks for a bearer token");
    }
    for (header, status) in [
        ("Bearer s3cret", 200),
        ("bearer s3cret", 200),
        ("Bearer s3cre", 401),
        ("Bearer s3crett", 401),
        ("s3cret", 401),
    ] {
        assert_eq!(with(header), status, "{header}");
    }
    assert!(BearerToken::new(" \n").is_err() && BearerToken::new("a b").is_err());
    assert!(!format!("{:?}", BearerToken::new("s3cret").unwrap()).contains("s3cret"));
}

/// Values as a fuzzer makes them: of every kind, with the names that requests have.
fn any_json() -> impl Strategy<Value = Value> {
    const WORDS: [&str; 24] = [
        "prompt",
        "messages",
        "role",
        "content",
        "user",
        "assistant",
        "tool_calls",
        "function",
        "name",
        "arguments",
        "type",
        "text",
        "tools",
        "n",
        "stop",
        "max_tokens",
        "temperature",
        "logit_bias",
        "stream",
        "stream_options",
        "logprobs",
        "seed",
        "input",
        "chat_template_kwargs",
    ];
    let word = prop_oneof![prop::sample::select(&WORDS[..]).prop_map(str::to_owned), "\\PC{0,6}"];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (-3_i64..200).prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        word.clone().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 48, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::vec((word.clone(), inner), 0..6)
                .prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    /// Whatever is sent, reading it ends with a request or a status of 400 to 499; nothing panics.
    #[test]
    fn no_request_panics(fields in prop::collection::vec(("[a-z_]{1,8}", any_json()), 0..3), known in any_json()) {
        let known = if known.is_object() { known } else { json!({ "prompt": known }) };
        let mut body = known.as_object().unwrap().clone();
        body.extend(fields);
        for name in ["prompt", "messages", "input"] {
            body.entry(name).or_insert(json!("a"));
        }
        let body = Value::Object(body).to_string();
        let model = ServedModel {
            name: "m".to_owned(),
            tokenizer: Arc::new(Tokenizer::Byte),
            template: Some(Arc::new(ChatTemplate::new(TEMPLATE, Vec::new()).unwrap())),
            begins_with: None,
            sampling: crate::engine::Sampling::default(),
            tool_form: Some(ToolForm::Hermes),
            truncate_prompt: false,
            stop_tokens: vec![256],
            vocab_size: 257,
            max_context: 100,
            created: 0,
        };
        let fields = || crate::serve::fields::Fields::of_body(body.as_bytes());
        let results = [
            fields().and_then(|fields| crate::serve::completions::Completion::read(fields, &model).map(|_| ())),
            fields().and_then(|fields| crate::serve::chat::ChatCompletion::read(fields, &model).map(|_| ())),
            fields().and_then(|fields| crate::serve::embeddings::Embeddings::read(fields, &model).map(|_| ())),
        ];
        for error in results.into_iter().filter_map(std::result::Result::err) {
            prop_assert!(error.status.is_client_error(), "{:?}", error);
        }
    }
}
