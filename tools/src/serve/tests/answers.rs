//! What is answered: in one piece and bit by bit.

use super::*;

#[test]
fn a_completion_in_one_piece() {
    let server = Setup::default().start();
    let answer = server.complete(json!({ "model": "parrot", "prompt": "ace ", "max_tokens": 6, "seed": 0 }));
    assert_eq!(answer.status, 200, "{}", answer.text);
    let mut found = answer.json();
    assert!(found["id"].as_str().unwrap().starts_with("cmpl-"));
    assert!(found["created"].as_u64().unwrap() > 1_700_000_000);
    for key in ["id", "created"] {
        found.as_object_mut().unwrap().shift_remove(key);
    }
    let expected = json!({
        "object": "text_completion", "model": "parrot",
        "choices": [{ "index": 0, "text": "ace ac", "logprobs": null, "finish_reason": "length" }],
        "usage": { "prompt_tokens": 5, "completion_tokens": 6, "total_tokens": 11 },
    });
    assert_eq!(found, expected);
}

#[test]
fn texts_are_as_the_request_says() {
    let server = Setup::default().start();
    let parrot = |text: &str| json!({ "prompt": text, "seed": 0 });
    let check = |mut body: Value, more: Value, expected: &[(&str, &str)]| {
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let answer = server.complete(body.clone());
        assert_eq!(answer.status, 200, "{body} {}", answer.text);
        let choices = answer.json()["choices"].clone();
        let found: Vec<(&str, &str)> = choices
            .as_array()
            .unwrap()
            .iter()
            .map(|choice| (choice["text"].as_str().unwrap(), choice["finish_reason"].as_str().unwrap()))
            .collect();
        assert_eq!(found, expected, "{body}");
        // Bit by bit, it is the same.
        body["stream"] = json!(true);
        let mut texts = vec![(String::new(), String::new()); expected.len()];
        for event in server.complete(body.clone()).events() {
            let choice = &event["choices"][0];
            let text = &mut texts[choice["index"].as_u64().unwrap() as usize];
            assert_eq!(text.1, "", "nothing comes behind the end: {event}");
            text.0 += choice["text"].as_str().unwrap();
            text.1 += choice["finish_reason"].as_str().unwrap_or_default();
        }
        let texts: Vec<(&str, &str)> = texts.iter().map(|(text, finish)| (text.as_str(), finish.as_str())).collect();
        assert_eq!(texts, expected, "{body} as a stream");
    };
    // OpenAI's default of 16 tokens, and characters of several.
    check(parrot("a€"), json!({}), &[("a€a€a€a€", "length")]);
    check(parrot("a€"), json!({ "max_tokens": 2 }), &[("a\u{FFFD}", "length")]);
    check(parrot("abcd"), json!({ "stop": "cda" }), &[("ab", "stop")]);
    check(parrot("abcd"), json!({ "stop": ["x", "bcdab"] }), &[("a", "stop")]);
    check(parrot("abcd"), json!({ "max_tokens": 3, "stop": ["cda"] }), &[("abc", "length")]);
    check(parrot("abcd"), json!({ "stop_token_ids": [99] }), &[("ab", "stop")]);
    check(parrot("abcd"), json!({ "max_tokens": 2, "echo": true }), &[("abcdab", "length")]);
    // The seed of each choice is its own.
    check(parrot("bd"), json!({ "max_tokens": 2, "n": 3 }), &[("bd", "length"), ("ce", "length"), ("bd", "length")]);
    check(
        json!({ "prompt": ["a", "c"], "seed": 0 }),
        json!({ "max_tokens": 1, "n": 1 }),
        &[("a", "length"), ("c", "length")],
    );
    check(json!({ "prompt": [256, 97, 98], "seed": 0 }), json!({ "max_tokens": 3 }), &[("aba", "length")]);
    check(
        json!({ "prompt": [[256, 97], "c"], "seed": 0 }),
        json!({ "max_tokens": 1 }),
        &[("a", "length"), ("c", "length")],
    );
    // The document end ends a text, unless it is told not to.
    check(json!({ "prompt": [256], "seed": 0 }), json!({}), &[("", "stop")]);
    check(json!({ "prompt": [256], "seed": 0 }), json!({ "ignore_eos": true, "max_tokens": 3 }), &[("", "length")]);
    // As far as the context reaches.
    check(json!({ "prompt": vec![97; 995], "seed": 0 }), json!({ "max_tokens": 500 }), &[("aaaaa", "length")]);
}

#[test]
fn sampling_reaches_the_engine() {
    let server = Setup::default().start();
    let body = json!({
        "prompt": "a", "max_tokens": 1, "temperature": 0.5, "top_p": 0.25, "top_k": 7, "min_p": 0.125, "n": 2, "best_of": 2,
        "repetition_penalty": 1.5, "presence_penalty": -1, "frequency_penalty": 2.0, "logit_bias": { "5": -100, "97": 1.5 },
        "seed": -1, "logprobs": 3, "user": "x", "stop_token_ids": [3],
    });
    assert_eq!(server.complete(body).status, 200);
    let requests = server.watch.requests.lock().unwrap().clone();
    let sampling = crate::engine::Sampling {
        temperature: 0.5,
        top_k: 7,
        top_p: 0.25,
        min_p: 0.125,
        repetition_penalty: 1.5,
        presence_penalty: -1.0,
        frequency_penalty: 2.0,
        logit_bias: vec![(5, -100.0), (97, 1.5)],
        seed: u64::MAX,
    };
    assert_eq!(requests[0].sampling, sampling);
    assert_eq!(requests[1].sampling.seed, 0);
    assert_eq!((requests[0].logprobs, &requests[0].stop_tokens), (Some(3), &vec![3, 256]));
    // Without a seed, each request has another.
    for _ in 0..2 {
        server.complete(json!({ "prompt": "a", "max_tokens": 1 }));
    }
    let requests = server.watch.requests.lock().unwrap();
    assert_ne!(requests[2].sampling.seed, requests[3].sampling.seed);
}

#[test]
fn log_probabilities_of_a_completion() {
    let server = Setup::default().start();
    let body = json!({ "prompt": "bé", "max_tokens": 3, "seed": 0, "logprobs": 2 });
    let found = server.complete(body).json()["choices"][0]["logprobs"].clone();
    let expected = json!({
        "tokens": ["b", "\u{FFFD}", "\u{FFFD}"],
        "token_logprobs": [-0.5, -0.5, -0.5],
        "top_logprobs": [{ "b": -0.5, "c": -1.5 }, { "\u{FFFD}": -1.5 }, { "\u{FFFD}": -1.5 }],
        "text_offset": [0, 1, 2],
    });
    assert_eq!(found, expected);
}

#[test]
fn a_chat_in_one_piece() {
    let server = Setup::default().start();
    let body = json!({ "model": "parrot", "messages": user("hi"), "max_completion_tokens": 8, "seed": 0,
                       "logprobs": true, "top_logprobs": 1 });
    let answer = server.chat(body).json();
    assert_eq!(
        (&answer["object"], &answer["choices"][0]["finish_reason"]),
        (&json!("chat.completion"), &json!("length"))
    );
    let message = json!({ "role": "assistant", "content": "user]hi[", "refusal": null });
    // The template has no document end, so the parrot leaves out its first character.
    assert_eq!(answer["choices"][0]["message"], message);
    let token = json!({ "token": "i", "logprob": -0.5, "bytes": [105],
                        "top_logprobs": [{ "token": "i", "logprob": -0.5, "bytes": [105] }] });
    assert_eq!(answer["choices"][0]["logprobs"]["content"][6], token);
    assert_eq!(answer["usage"], json!({ "prompt_tokens": 19, "completion_tokens": 8, "total_tokens": 27 }));
}

#[test]
fn a_chat_bit_by_bit() {
    let server = Setup::default().start();
    let body = json!({ "messages": user("hi"), "max_tokens": 8, "seed": 0, "stream": true, "stop": "hi",
                       "stream_options": { "include_usage": true } });
    let events = server.chat(body).events();
    let chunks: Vec<&Value> = events.iter().filter(|event| event["choices"] != json!([])).collect();
    assert!(events.iter().all(|event| event["object"] == "chat.completion.chunk" && event["id"] == events[0]["id"]));
    assert_eq!(chunks[0]["choices"][0]["delta"], json!({ "role": "assistant", "content": "", "refusal": null }));
    let text: String =
        chunks[1..].iter().filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str()).collect();
    assert_eq!(text, "user]");
    let last = &chunks[chunks.len() - 1]["choices"][0];
    assert_eq!((&last["delta"], &last["finish_reason"]), (&json!({}), &json!("stop")));
    // As OpenAI has it: null everywhere, and an event of its own at the end.
    assert!(chunks.iter().all(|chunk| chunk["usage"] == Value::Null && chunk.get("usage").is_some()));
    let usage = json!({ "prompt_tokens": 19, "completion_tokens": 7, "total_tokens": 26 });
    assert_eq!(events[events.len() - 1]["usage"], usage);
}

#[test]
fn messages_reach_the_template() {
    let server = Setup::default().start();
    let tool = json!({ "type": "function", "function": { "name": "f" } });
    let prompt = |body: Value| {
        let answer = server.chat(body);
        assert_eq!(answer.status, 200, "{}", answer.text);
        let prompt = server.watch.requests.lock().unwrap().pop().unwrap().prompt;
        String::from_utf8(prompt.iter().map(|&token| token as u8).collect()).unwrap()
    };
    let parts = json!([{ "type": "text", "text": "a" }, { "type": "text", "text": "b" }]);
    let call = json!({ "type": "function", "id": "1", "function": { "name": "f", "arguments": "{\"x\": 1}" } });
    let messages = json!([
        { "role": "developer", "content": "rules" },
        { "role": "user", "content": parts },
        { "role": "assistant", "content": null, "tool_calls": [call] },
        { "role": "tool", "content": "r", "tool_call_id": "1" },
    ]);
    assert_eq!(
        prompt(json!({ "messages": messages, "max_tokens": 1 })),
        "[system]rules[user]a\nb[assistant][{\"type\": \"function\", \"id\": \"1\", \"function\": {\"name\": \"f\", \
         \"arguments\": {\"x\": 1}}}][tool]r[assistant]"
    );
    let body =
        json!({ "messages": user("q"), "tools": [tool], "chat_template_kwargs": { "mood": "glad" }, "max_tokens": 1 });
    assert_eq!(
        prompt(body.clone()),
        format!("[user]q[{}]glad[assistant]", "{\"type\": \"function\", \"function\": {\"name\": \"f\"}}")
    );
    let mut without = body;
    without["tool_choice"] = json!("none");
    assert_eq!(prompt(without), "[user]qglad[assistant]");
}

#[test]
fn embeddings_are_vectors_in_order() {
    let server = Setup::default().start();
    let found = server.post("/v1/embeddings", &json!({ "model": "parrot", "input": ["a", "bcd"] })).json();
    let vector =
        |index: usize, length: f32| json!({ "object": "embedding", "index": index, "embedding": [length, 0.5, -1.0] });
    let expected = json!({
        "object": "list", "data": [vector(0, 2.0), vector(1, 4.0)], "model": "parrot",
        "usage": { "prompt_tokens": 6, "total_tokens": 6 },
    });
    assert_eq!(found, expected);
    let found = server.post("/v1/embeddings", &json!({ "input": [256, 97], "encoding_format": "base64" })).json();
    // As Python's base64.b64encode(struct.pack("<3f", 2, 0.5, -1)) has it.
    assert_eq!(found["data"][0]["embedding"], "AAAAQAAAAD8AAIC/");
}

#[test]
fn the_other_paths() {
    let server = Setup::default().start();
    let model = json!({ "id": "parrot", "object": "model", "created": 7, "owned_by": "lmc", "max_model_len": 1000 });
    assert_eq!(server.get("/v1/models").json(), json!({ "object": "list", "data": [model] }));
    assert_eq!(server.get("/v1/models/parrot").json(), model);
    assert_eq!(server.get("/health").json(), json!({ "status": "ok", "model": "parrot", "running": 0, "waiting": 0 }));
    server.complete(json!({ "prompt": "abc", "max_tokens": 3 }));
    server.complete(json!({ "prompt": 1 }));
    let metrics = server.get("/metrics").text;
    for line in [
        "lmc_requests_total{path=\"/v1/completions\",status=\"200\"} 1",
        "lmc_requests_total{path=\"/v1/completions\",status=\"400\"} 1",
        "lmc_prompt_tokens_total 4",
        "lmc_generated_tokens_total 3",
        "# TYPE lmc_time_to_first_token_seconds histogram",
        "lmc_time_to_first_token_seconds_bucket{le=\"+Inf\"} 1",
        "lmc_time_to_first_token_seconds_count 1",
        "lmc_cache_bytes 12345",
        "lmc_waiting 0",
    ] {
        assert!(metrics.lines().any(|found| found == line), "expected {line} in\n{metrics}");
    }
}

#[test]
fn calls_of_tools_are_read() {
    let server = Setup::default().start();
    let call = "<tool_call>{\"name\": \"add\", \"arguments\": {\"a\": 1}}</tool_call>";
    let tool = json!({ "type": "function", "function": { "name": "add" } });
    // The parrot says all of its prompt but the first token; behind the message stand the tools.
    let body = json!({
        "messages": [{ "role": "user", "content": format!("{call}{call}") }], "tools": [tool], "stop": "[{", "seed": 0,
    });
    let found = server.chat(body.clone()).json();
    let choice = &found["choices"][0];
    assert_eq!(choice["finish_reason"], "tool_calls", "{found}");
    assert_eq!(choice["message"]["content"], "user]");
    let calls = choice["message"]["tool_calls"].as_array().unwrap();
    assert_eq!(calls.len(), 2);
    for call in calls {
        assert_eq!(call["type"], "function");
        assert_eq!(call["function"], json!({ "name": "add", "arguments": "{\"a\":1}" }));
    }
    assert_ne!(calls[0]["id"], calls[1]["id"]);
    let mut streamed = body.clone();
    streamed["stream"] = json!(true);
    let (mut text, mut calls, mut finish) = (String::new(), Vec::new(), Value::Null);
    for event in server.chat(streamed).events() {
        let choice = &event["choices"][0];
        text += choice["delta"]["content"].as_str().unwrap_or_default();
        calls.extend(choice["delta"]["tool_calls"].as_array().cloned().unwrap_or_default());
        finish = choice["finish_reason"].clone();
    }
    assert_eq!((text.as_str(), finish), ("user]", json!("tool_calls")));
    let indices: Vec<&Value> = calls.iter().map(|call| &call["index"]).collect();
    assert_eq!(indices, [0, 1]);
    assert!(calls.iter().all(|call| call["function"]["arguments"] == "{\"a\":1}"));
    // Without tools, it is text; so it is where nothing but a call would be.
    let mut without = body;
    without["tool_choice"] = json!("none");
    without["stop"] = json!("[ass");
    let choice = server.chat(without).json()["choices"][0].clone();
    assert_eq!(
        (&choice["message"]["content"], &choice["finish_reason"]),
        (&json!(format!("user]{call}{call}")), &json!("stop"))
    );
}

#[test]
fn a_long_prompt_loses_its_beginning_if_it_may() {
    let server = Setup { truncate_prompt: true, ..Setup::default() }.start();
    let prompt = format!("{}{}", "a".repeat(1000), "b".repeat(900));
    let answer = server.complete(json!({ "prompt": prompt, "max_tokens": 100, "seed": 0 })).json();
    let expected = json!({
        "prompt_tokens": 900, "completion_tokens": 100, "total_tokens": 1000, "truncated_prompt_tokens": 1001,
    });
    assert_eq!(answer["usage"], expected);
    assert_eq!(server.watch.requests.lock().unwrap()[0].prompt, vec![u32::from(b'b'); 900]);
    // What fits is whole.
    let answer = server.complete(json!({ "prompt": "a".repeat(998), "max_tokens": 100 })).json();
    assert_eq!(answer["usage"], json!({ "prompt_tokens": 999, "completion_tokens": 1, "total_tokens": 1000 }));
    assert_eq!(crate::engine::kept_tokens(1000, None), 750);
    assert_eq!(crate::engine::kept_tokens(1000, Some(4000)), 500);
}
