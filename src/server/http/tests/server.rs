//! The server itself: slow, endless, oversized and too many clients.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::http::tests::{PATIENCE, Server, until};
use crate::http::{Cors, Limits};

const SHORT: Duration = Duration::from_millis(200);

/// Reads until the server closes; answers what came and how long it took.
async fn until_closed(stream: &mut TcpStream) -> (String, Duration) {
    let start = Instant::now();
    let mut answer = Vec::new();
    let read = stream.read_to_end(&mut answer);
    let _ = timeout(PATIENCE, read).await.expect("the server closes");
    (String::from_utf8_lossy(&answer).into_owned(), start.elapsed())
}

async fn connect(server: &Server) -> TcpStream {
    TcpStream::connect(server.address).await.expect("the server listens")
}

#[tokio::test]
async fn a_silent_new_connection_is_closed() {
    let limits = Limits { head_read: SHORT, ..Limits::default() };
    let server = Server::with(limits, Cors::Closed).await;
    let (answer, took) = until_closed(&mut connect(&server).await).await;
    assert_eq!(answer, "");
    assert!(took >= SHORT / 2, "{took:?}");
}

#[tokio::test]
async fn a_head_that_dribbles_is_closed_however_steadily_it_comes() {
    let limits = Limits { head_read: SHORT, ..Limits::default() };
    let server = Server::with(limits, Cors::Closed).await;
    for first in ["", "GET /ping HTTP/1.1\r\nhost: a\r\n\r\n"] {
        let mut stream = connect(&server).await;
        stream.write_all(first.as_bytes()).await.expect("it is read");
        stream.write_all(b"GET /ping HTTP/1.1\r\nx: ").await.expect("it is read");
        let start = Instant::now();
        // The write fails some time after the server has closed.
        while stream.write_all(b"y").await.is_ok() {
            assert!(start.elapsed() < PATIENCE, "the connection is still open");
            tokio::time::sleep(SHORT / 20).await;
        }
    }
}

#[tokio::test]
async fn a_body_that_never_ends_is_answered_408() {
    let limits = Limits { body_read: SHORT, ..Limits::default() };
    let server = Server::with(limits, Cors::Closed).await;
    for path in ["/v1/chain", "/chain"] {
        let head = format!("POST {path} HTTP/1.1\r\nhost: a\r\ncontent-length: 100\r\n\r\n{{");
        let answer = server.raw(head.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
        assert!(answer.contains("\"code\":\"request_timeout\""), "{answer}");
    }
    assert_eq!(server.double.ordered(), 0);
}

#[tokio::test]
async fn idle_connection_is_closed_after_its_limit() {
    let limits = Limits { keep_alive: SHORT, ..Limits::default() };
    let server = Server::with(limits, Cors::Closed).await;
    let mut stream = connect(&server).await;
    stream.write_all(b"GET /ping HTTP/1.1\r\nhost: a\r\n\r\n").await.expect("it is open");
    let (answer, took) = until_closed(&mut stream).await;
    assert!(answer.ends_with("pong") && took >= SHORT / 2, "{took:?} {answer}");
    // A request that waits longer than any of the limits is not idle.
    let limits = Limits {
        head_read: SHORT,
        body_read: SHORT,
        keep_alive: SHORT,
        write_stall: SHORT,
        ..Limits::default()
    };
    let server = Server::with(limits, Cors::Closed).await;
    server.double.behave(|b| b.applies_nothing = true);
    let timeout = (SHORT * 3).as_millis();
    let got = server.post(&format!("?timeout={timeout}ms"), "{}").await;
    got.is_problem(504, "committed_not_applied");
}

#[tokio::test]
async fn a_client_that_takes_no_answer_is_closed() {
    let limits = Limits { write_stall: SHORT, ..Limits::default() };
    let server = Server::with(limits, Cors::Closed).await;
    let large = format!("{{\"payload\":\"{}\"}}", "x".repeat(1 << 19));
    for _ in 0..40 {
        assert_eq!(server.post("", large.clone()).await.status, 201);
    }
    let mut stream = connect(&server).await;
    let request = b"GET /v1/chain HTTP/1.1\r\nhost: a\r\n\r\n";
    stream.write_all(request).await.expect("it is read");
    until("it is closed", || server.metrics.http.connections_open.get() <= 1).await;
}

#[tokio::test]
async fn oversized_head_is_431_invalid_http_is_400() {
    let server = Server::start().await;
    let large = "x".repeat(17 << 10);
    let header = format!("GET /ping HTTP/1.1\r\nhost: a\r\nx: {large}\r\n\r\n");
    assert!(server.raw(header.as_bytes()).await.starts_with("HTTP/1.1 431 "));
    let many = (0..200).map(|n| format!("x{n}: 1\r\n")).collect::<String>();
    let many = format!("GET /ping HTTP/1.1\r\nhost: a\r\n{many}\r\n");
    assert!(server.raw(many.as_bytes()).await.starts_with("HTTP/1.1 431 "));
    let uri = format!("GET /{large} HTTP/1.1\r\nhost: a\r\n\r\n");
    let answer = server.raw(uri.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 431 ") || answer.starts_with("HTTP/1.1 414 "), "{answer}");
    assert!(server.raw(b"\x16\x03\x01\x02\x00 hello\r\n\r\n").await.starts_with("HTTP/1.1 400 "));
}

#[tokio::test]
async fn a_413_reaches_a_client_that_sends_everything_before_it_reads() {
    let limits = Limits { body_bytes: 100, linger: PATIENCE, ..Limits::default() };
    let server = Server::with(limits, Cors::Closed).await;
    let mut stream = connect(&server).await;
    let head = "POST /v1/chain HTTP/1.1\r\nhost: a\r\ncontent-length: 8000000\r\n\r\n";
    stream.write_all(head.as_bytes()).await.expect("it is read");
    stream.write_all(&vec![b' '; 8_000_000]).await.expect("the rest is swallowed");
    let mut answer = vec![0; 4096];
    let length =
        timeout(PATIENCE, stream.read(&mut answer)).await.expect("in time").expect("no reset");
    assert!(answer[..length].starts_with(b"HTTP/1.1 413 "));
}

#[tokio::test]
async fn a_full_server_closes_the_idlest_connection() {
    let server = Server::with(Limits { connections: 2, ..Limits::default() }, Cors::Closed).await;
    let ping = b"GET /ping HTTP/1.1\r\nhost: a\r\n\r\n";
    let mut first = connect(&server).await;
    until("it is open", || server.metrics.http.connections_open.get() == 1).await;
    let mut second = connect(&server).await;
    until("both are open", || server.metrics.http.connections_open.get() == 2).await;
    // The first is the elder, but has just been served.
    first.write_all(ping).await.expect("it is read");
    read_pong(&mut first).await;
    let mut third = connect(&server).await;
    third.write_all(ping).await.expect("it is read");
    read_pong(&mut third).await;
    assert_eq!(until_closed(&mut second).await.0, "");
    assert_eq!(server.metrics.http.connections_refused.get(), 1);
    first.write_all(ping).await.expect("it is open still");
    read_pong(&mut first).await;
}

async fn read_pong(stream: &mut TcpStream) {
    let mut answer = Vec::new();
    while !answer.ends_with(b"pong") {
        let read = timeout(PATIENCE, stream.read_buf(&mut answer)).await;
        assert!(read.expect("in time").expect("it is open") > 0, "it was closed");
    }
}

#[tokio::test]
async fn a_full_server_closes_no_request_under_way() {
    let server = Server::with(Limits { connections: 1, ..Limits::default() }, Cors::Closed).await;
    server.double.behave(|b| b.applies_nothing = true);
    let waits = server.post("?timeout=20s", "{}");
    let others = async {
        until("the write is ordered", || server.double.ordered() == 1).await;
        assert_eq!(until_closed(&mut connect(&server).await).await.0, "");
        server.double.catch_up();
    };
    let (got, ()) = tokio::join!(waits, others);
    assert_eq!(got.status, 201);
}

#[tokio::test]
async fn a_client_that_closes_its_side_is_answered() {
    let server = Server::start().await;
    let bulk = "{}\n".repeat(3000);
    let chunks: String = bulk
        .as_bytes()
        .chunks(1000)
        .map(|part| {
            let text = std::str::from_utf8(part).expect("ASCII");
            format!("{:x}\r\n{text}\r\n", part.len())
        })
        .collect();
    for (request, end) in [
        ("GET /ping HTTP/1.1\r\nhost: a\r\n\r\n".to_owned(), "pong"),
        ("POST /chain HTTP/1.1\r\nhost: a\r\n\r\n".to_owned(), "\"}"),
        ("POST /v1/chain HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\n{}".to_owned(), "\"}"),
        (
            format!(
                "POST /v1/chain HTTP/1.1\r\nhost: a\r\ncontent-type: application/x-ndjson\r\n\
                 transfer-encoding: chunked\r\n\r\n{chunks}0\r\n\r\n"
            ),
            "0\r\n\r\n",
        ),
    ] {
        let mut stream = connect(&server).await;
        let (mut from, mut to) = stream.split();
        let mut answer = Vec::new();
        let send = async {
            to.write_all(request.as_bytes()).await.expect("it is read");
            to.shutdown().await.expect("it is open");
        };
        let (_, read) = tokio::join!(send, timeout(PATIENCE, from.read_to_end(&mut answer)));
        read.expect("the server closes").expect("no reset");
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.starts_with("HTTP/1.1 20"), "{request:.60}: {answer}");
        assert!(answer.ends_with(end), "{request:.60}: {answer}");
    }
    assert_eq!(server.double.ordered(), 3002);
}

#[tokio::test]
async fn bodies_beyond_the_room_for_all_are_refused_unread() {
    let limits = Limits { request_bytes: 2 * (4 << 20), ..Limits::default() };
    let server = Server::with(limits, Cors::Closed).await;
    let head =
        format!("POST /v1/chain HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n{{", 1 << 20);
    let mut slow = Vec::new();
    for _ in 0..4 {
        let mut stream = connect(&server).await;
        stream.write_all(head.as_bytes()).await.expect("it is read");
        slow.push(stream);
    }
    // Once all four are being read, nothing more is, declared or not.
    let small = async || server.post("", "{}").await;
    let start = Instant::now();
    let refused = loop {
        let got = small().await;
        if got.status == 503 {
            break got;
        }
        assert!(start.elapsed() < PATIENCE, "{got:?}");
    };
    refused.is_problem(503, "busy");
    assert_eq!(refused.header("connection"), "close");
    let many =
        "POST /v1/chain HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n";
    let answer = server.raw(many.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("retry-after: 1"), "{answer}");
    assert_eq!(server.get("/ping").await.status, 200, "what has no body is served");
    drop(slow);
    while small().await.status != 201 {
        assert!(start.elapsed() < PATIENCE, "room is given back");
    }
}

#[tokio::test]
async fn hundreds_of_slow_clients_do_not_hold_up_others() {
    let limits = Limits { head_read: 3 * PATIENCE, ..Limits::default() };
    let server = Server::with(limits, Cors::Closed).await;
    let mut slow = Vec::new();
    for _ in 0..300 {
        let mut stream = connect(&server).await;
        stream.write_all(b"POST /v1/chain HTTP/1.1\r\nx: y").await.expect("it is open");
        slow.push(stream);
    }
    let served = timeout(PATIENCE, server.post("", "{}")).await;
    assert_eq!(served.expect("it is served").status, 201);
}

#[tokio::test]
async fn shutdown_finishes_requests_in_flight() {
    let limits = Limits { drain: PATIENCE, ..Limits::default() };
    let server = Server::with(limits, Cors::Closed).await;
    let mut idle = connect(&server).await;
    server.double.behave(|b| b.applies_nothing = true);
    let under_way = server.post("?timeout=20s", "{}");
    let stop = async {
        until("the write is ordered", || server.double.ordered() == 1).await;
        server.shutdown.cancel();
        // An idle connection is closed at once, a new one is not taken.
        assert_eq!(until_closed(&mut idle).await.0, "");
        let refused = async {
            while TcpStream::connect(server.address).await.is_ok() {
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, refused).await.expect("the listener is closed");
        server.double.catch_up();
    };
    let (got, ()) = tokio::join!(under_way, stop);
    assert_eq!((got.status, got.header("connection")), (201, "close"));
    timeout(PATIENCE, server.tasks.shut_down()).await.expect("the server has ended");
}

#[tokio::test]
async fn draining_node_still_serves() {
    let server = Server::start().await;
    assert_eq!(server.get("/readyz").await.status, 200);
    server.leaving.cancel();
    for path in ["/readyz", "/readyz/write"] {
        server.get(path).await.is_problem(503, "draining");
    }
    let got = server.post("", "{}").await;
    assert_eq!((got.status, got.header("connection")), (201, "close"));
    server.shutdown.cancel();
    let refused = async {
        while TcpStream::connect(server.address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, refused).await.expect("the listener is closed");
}

/// Two nodes behind a balancer that looks at `/readyz`, and a client that connects anew for each request.
#[tokio::test]
#[expect(clippy::disallowed_methods, reason = "a client that connects anew for each request")]
async fn a_rolling_restart_refuses_no_connection() {
    let mut nodes = vec![Server::start().await, Server::start().await];
    let addresses = nodes.iter().map(|node| node.address).collect::<Vec<_>>();
    let ready = [true, true].map(std::sync::atomic::AtomicBool::new);
    let is_ready = |place: usize| ready[place].load(std::sync::atomic::Ordering::SeqCst);
    let balancer = async {
        loop {
            for (place, address) in addresses.iter().enumerate() {
                let asked = reqwest::get(format!("http://{address}/readyz")).await;
                let says = asked.is_ok_and(|answer| answer.status().is_success());
                ready[place].store(says, std::sync::atomic::Ordering::SeqCst);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let served = std::sync::atomic::AtomicUsize::new(0);
    let client = async {
        for turn in 0.. {
            let place = if is_ready(turn % 2) { turn % 2 } else { 1 - turn % 2 };
            let client =
                reqwest::Client::builder().pool_max_idle_per_host(0).build().expect("it is");
            let url = format!("http://{}/v1/chain", addresses[place]);
            let sent = client.post(url).header("content-type", "application/json").body("{}");
            assert_eq!(sent.send().await.expect("no connection is refused").status(), 201);
            served.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        }
    };
    let restarts = async {
        for place in [0, 1, 0, 1] {
            let node = nodes.remove(0);
            assert_eq!(node.address, addresses[place]);
            node.leaving.cancel();
            until("the balancer knows", || !is_ready(place)).await;
            let before = served.load(std::sync::atomic::Ordering::SeqCst);
            until("the other serves", || {
                served.load(std::sync::atomic::Ordering::SeqCst) > before + 1
            })
            .await;
            node.shutdown.cancel();
            timeout(PATIENCE, node.tasks.shut_down()).await.expect("it ends");
            nodes.push(Server::at(addresses[place], Limits::default(), Cors::Closed).await);
            until("the balancer knows", || is_ready(place)).await;
        }
    };
    tokio::select! {
        () = balancer => unreachable!("it goes on"),
        () = client => unreachable!("it goes on"),
        () = restarts => {}
    }
}

#[tokio::test]
async fn a_pipelined_request_is_answered_in_its_turn() {
    let server = Server::start().await;
    let two = b"GET /ping HTTP/1.1\r\nhost: a\r\n\r\nGET /healthz HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    let answer = server.raw(two).await;
    let bodies = (answer.find("pong"), answer.find("\r\n\r\nok"));
    assert!(matches!(bodies, (Some(first), Some(second)) if first < second), "{answer}");
}
