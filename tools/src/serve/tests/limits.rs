//! Many at once, too many, too slow, gone: the limits of the server and its end.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use super::*;

/// Sends a request for a stream and returns when its answer has begun.
fn begin_stream(server: &Running, prompt: &str) -> TcpStream {
    let mut stream =
        send(server, &json!({ "prompt": prompt, "max_tokens": 900, "stream": true, "seed": 0 }).to_string());
    let mut begin = [0; 12];
    stream.read_exact(&mut begin).unwrap();
    assert_eq!(&begin, b"HTTP/1.1 200");
    stream
}

fn send(server: &Running, body: &str) -> TcpStream {
    let mut stream = TcpStream::connect(server.base.strip_prefix("http://").unwrap()).unwrap();
    let head = format!("POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", body.len());
    stream.write_all((head + body).as_bytes()).unwrap();
    stream
}

#[test]
fn many_at_once_get_what_each_gets_alone() {
    let server = Setup { slots: 8, ..Setup::default() }.start();
    std::thread::scope(|scope| {
        for client in 0..16_u64 {
            let server = &server;
            scope.spawn(move || {
                for request in 0..5 {
                    let (prompt, seed) = (format!("client {client}, request {request} "), client);
                    let stream = (client + request) % 2 == 0;
                    let body = json!({ "prompt": prompt, "max_tokens": 50, "seed": seed, "stream": stream });
                    let answer = server.complete(body);
                    let text: String = match stream {
                        true => {
                            answer.events().iter().map(|event| event["choices"][0]["text"].as_str().unwrap()).collect()
                        }
                        false => answer.json()["choices"][0]["text"].as_str().unwrap().to_owned(),
                    };
                    let tokens = Tokenizer::Byte.encode_beginning(&prompt).unwrap();
                    let expected: Vec<u8> = (0..50).map(|i| Parrot::token(&tokens, seed, i) as u8).collect();
                    assert_eq!(text.as_bytes(), expected);
                }
            });
        }
    });
    assert_eq!(server.watch.most_busy.load(Ordering::SeqCst), 8, "all slots were used at once");
}

#[test]
fn a_full_queue_refuses() {
    let server = Setup { slots: 1, queue: 1, step_time: Duration::from_millis(2), ..Setup::default() }.start();
    let running = begin_stream(&server, "a");
    let waiting = send(&server, &json!({ "prompt": "b", "max_tokens": 1 }).to_string());
    wait_until("waiting", || server.get("/health").json()["waiting"] == 1);
    let answer = server.complete(json!({ "prompt": "c" }));
    assert_eq!((answer.status, answer.retry_after.as_deref()), (429, Some("1")), "{}", answer.text);
    assert_eq!(answer.json()["error"]["type"], "rate_limit_error");
    // Whoever leaves makes room.
    drop(waiting);
    wait_until("room", || server.complete(json!({ "prompt": "c", "max_tokens": 1, "stream": true })).status == 200);
    drop(running);
    // More choices than ever fit.
    assert_eq!(server.complete(json!({ "prompt": "c", "n": 3 })).status, 429);
}

#[test]
fn whoever_leaves_frees_the_slot() {
    let server = Setup { slots: 2, step_time: Duration::from_millis(2), ..Setup::default() }.start();
    let (streamed, whole) =
        (begin_stream(&server, "a"), send(&server, &json!({ "prompt": "b", "max_tokens": 900 }).to_string()));
    wait_until("busy", || server.busy() == 2);
    drop((streamed, whole));
    wait_until("free", || server.busy() == 0);
    assert_eq!(server.watch.cancelled.load(Ordering::SeqCst), 2);
    // A stop string, too, which the engine knows nothing of.
    let body = json!({ "prompt": "abcd", "max_tokens": 900, "stop": "cd", "seed": 0 });
    assert_eq!(server.complete(body).json()["choices"][0]["text"], "ab");
    wait_until("free again", || server.busy() == 0);
    assert_eq!(server.watch.cancelled.load(Ordering::SeqCst), 3);
    let metrics = server.get("/metrics").text;
    assert!(metrics.contains("lmc_cancelled_total 2\n"), "{metrics}");
}

#[test]
fn what_takes_too_long_ends() {
    let slow = Duration::from_millis(20);
    let server =
        Setup { slots: 1, step_time: slow, time_limit: Duration::from_millis(300), ..Setup::default() }.start();
    let answer = server.complete(json!({ "prompt": "a", "max_tokens": 900 }));
    assert_eq!((answer.status, &answer.json()["error"]["code"]), (504, &json!("timeout")));
    let answer = server.complete(json!({ "prompt": "a", "max_tokens": 900, "stream": true }));
    assert_eq!(answer.status, 200);
    let last = answer.text.trim_end().rsplit("\n\n").next().unwrap().to_owned();
    assert!(last.contains("\"code\":\"timeout\""), "{last}");
    wait_until("free", || server.busy() == 0);
    // A body that does not come.
    let mut stream = TcpStream::connect(server.base.strip_prefix("http://").unwrap()).unwrap();
    stream.write_all(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{").unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 408");
}

#[test]
fn a_broken_engine_ends_the_server() {
    let mut server = Setup { step_time: Duration::from_millis(2), ..Setup::default() }.start();
    let mut other = begin_stream(&server, "a");
    let answer = server.complete(json!({ "prompt": "a!" }));
    assert_eq!((answer.status, &answer.json()["error"]["message"]), (500, &json!("the device is gone")));
    assert_eq!(server.end().unwrap_err(), crate::Error::run("the device is gone"));
    let mut rest = String::new();
    other.read_to_string(&mut rest).unwrap();
    assert!(rest.contains("the device is gone") && !rest.contains("[DONE]"), "{rest}");
}

#[test]
fn an_engine_that_panics_ends_the_server() {
    let mut server = Setup::default().start();
    let answer = server.complete(json!({ "prompt": "a#" }));
    assert_eq!(answer.status, 500, "{}", answer.text);
    let error = server.end().unwrap_err();
    assert_eq!(error.message(), "the engine has ended unexpectedly");
}

#[test]
fn what_was_asked_for_is_finished_before_the_end() {
    let mut server = Setup { step_time: Duration::from_millis(1), ..Setup::default() }.start();
    let mut stream = begin_stream(&server, "a");
    server.end().unwrap();
    let mut rest = String::new();
    stream.read_to_string(&mut rest).unwrap();
    assert!(rest.contains("\"finish_reason\":\"length\"") && rest.contains("[DONE]"), "{rest}");
    assert_eq!(rest.matches("\"text\":\"a\"").count(), 900);
}

#[test]
fn what_does_not_end_in_time_is_given_up() {
    let drain_time = Duration::from_millis(100);
    let mut server = Setup { step_time: Duration::from_millis(50), drain_time, ..Setup::default() }.start();
    let mut stream = begin_stream(&server, "a");
    server.end().unwrap();
    let mut rest = Vec::new();
    _ = stream.read_to_end(&mut rest);
    assert!(!String::from_utf8_lossy(&rest).contains("[DONE]"));
}

#[test]
fn other_machines_need_a_token() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let options = |address: &str, token: Option<BearerToken>| ServeOptions {
        address: address.parse().unwrap(),
        token,
        queue: 1,
        time_limit: Duration::from_secs(1),
        connections: 1,
        header_time: Duration::from_secs(1),
        write_time: Duration::from_secs(1),
        body_time: Duration::from_secs(1),
        most_body_bytes: 1,
        drain_time: Duration::ZERO,
    };
    let error = runtime.block_on(Server::bind(options("0.0.0.0:0", None))).unwrap_err();
    assert!(error.message().contains("there is no bearer token to ask for"), "{error}");
    assert_eq!(error.exit_code(), 2);
    assert!(runtime.block_on(Server::bind(options("0.0.0.0:0", BearerToken::new("x").ok()))).is_ok());
    let taken = runtime.block_on(Server::bind(options("[::1]:0", None)));
    if let Ok(taken) = taken {
        let address = taken.address().unwrap().to_string();
        let error = runtime.block_on(Server::bind(options(&address, None))).unwrap_err();
        assert!(error.message().contains("cannot listen at"), "{error}");
    }
}

fn connect(server: &Running) -> TcpStream {
    TcpStream::connect(server.base.strip_prefix("http://").unwrap()).unwrap()
}

/// Neither a head that does not come nor a client that asks for nothing more keeps a connection.
#[test]
fn idle_connections_are_closed() {
    let server = Setup { header_time: Duration::from_millis(100), ..Setup::default() }.start();
    for sent in ["", "GET /health HTTP/1.1\r\nHo", "GET /health HTTP/1.1\r\nHost: x\r\n\r\n"] {
        let mut stream = connect(&server);
        stream.write_all(sent.as_bytes()).unwrap();
        let mut answer = String::new();
        // Ends where the server closes; what it has not read may break the connection.
        _ = stream.read_to_string(&mut answer);
        assert_eq!(answer.starts_with("HTTP/1.1 200"), sent.ends_with("\r\n\r\n"), "{answer}");
    }
    // A long answer is no idleness.
    let answer = server.complete(json!({ "prompt": "a", "max_tokens": 900, "stream": true }));
    assert!(answer.text.ends_with("data: [DONE]\n\n"));
}

#[test]
fn more_connections_than_allowed_wait() {
    let server = Setup { connections: 1, ..Setup::default() }.start();
    let first = connect(&server);
    let mut second = connect(&server);
    second.write_all(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    second.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let mut begin = [0; 12];
    assert!(second.read_exact(&mut begin).is_err(), "there is one already");
    drop(first);
    second.set_read_timeout(None).unwrap();
    second.read_exact(&mut begin).unwrap();
    assert_eq!(&begin, b"HTTP/1.1 200");
}

#[test]
fn a_client_that_does_not_read_is_left() {
    let server = Setup {
        slots: 128,
        queue: 128,
        step_time: Duration::ZERO,
        write_time: Duration::from_millis(100),
        ..Setup::default()
    }
    .start();
    // A hundred megabytes, more than the system takes for the client: Linux lets a connection have up to 32 and 4.
    let body = json!({ "prompt": "a", "max_tokens": 900, "n": 128, "stream": true, "logprobs": 20 }).to_string();
    let mut stream = send(&server, &body);
    wait_until("begun", || server.busy() > 0);
    wait_until("done", || server.busy() == 0);
    // What was drawn is written for a while yet. Who writes to a connection that the other side has closed is told so.
    wait_until("left", || (&stream).write_all(b" ").is_err());
    let mut answer = Vec::new();
    _ = stream.read_to_end(&mut answer);
    assert!(!answer.ends_with(b"data: [DONE]\n\n\r\n0\r\n\r\n"), "{} bytes came", answer.len());
    assert!(!String::from_utf8_lossy(&answer).contains("[DONE]"), "{} bytes came", answer.len());
}
