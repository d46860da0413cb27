//! Claims about the WAN emulator, through real sockets.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use pghc_runtime::task::Tasks;
use pghc_wan::conditions::Change;
use pghc_wan::line::How;
use pghc_wan::{Cut, Matrix, Wan, Way};
use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::harness::free_addresses;

/// Tolerated difference between median round trip and matrix, beside the emulator's reported
/// lateness: the wake-up of client and echo takes time as well.
const TOLERANCE: Duration = Duration::from_millis(3);

/// Measuring rounds: on an overloaded machine at least one of them is undisturbed, while a wrong
/// emulator fails in all.
const ROUNDS: u64 = 40;

fn matrix() -> Matrix {
    "zone,a,b\na,0,20\nb,30,0\n".parse().expect("a good matrix")
}

fn wan(tasks: &Tasks) -> Wan {
    Wan::start(matrix(), 7, tasks).expect("a thread")
}

async fn route(wan: &Wan, upstream: SocketAddr) -> SocketAddr {
    let (a, b) = (&wan.matrix().zones()[0], &wan.matrix().zones()[1]);
    wan.route(a, b, upstream).await.expect("a loopback port")
}

/// A server that sends back what it gets, until the client closes its side.
async fn echo(tasks: &Tasks) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a loopback port");
    let address = listener.local_addr().expect("an address");
    let of_server = tasks.clone();
    tasks.spawn("echo", async move {
        while let Ok((stream, _)) = listener.accept().await {
            of_server.spawn("echo connection", async move {
                stream.set_nodelay(true).expect("a socket");
                let (mut read, mut write) = stream.into_split();
                let _: Result<u64, _> = tokio::io::copy(&mut read, &mut write).await;
            });
        }
    });
    address
}

async fn ping(stream: &mut TcpStream) -> Duration {
    let sent = Instant::now();
    stream.write_all(b"ping").await.expect("an open connection");
    stream.read_exact(&mut [0; 4]).await.expect("an echo");
    sent.elapsed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn median_round_trip_matches_matrix() {
    let tasks = Tasks::default();
    let wan = wan(&tasks);
    let address = route(&wan, echo(&tasks).await).await;
    let round_trip = Duration::from_millis(10 + 15);

    let mut stream = TcpStream::connect(address).await.expect("a route");
    stream.set_nodelay(true).expect("a socket");
    let first = ping(&mut stream).await;
    assert!(first >= 2 * round_trip, "the first byte waits for the handshake: {first:?}");

    let mut medians = Vec::new();
    for round in 1..=ROUNDS {
        let mut measured = Vec::new();
        for _ in 0..41 {
            measured.push(ping(&mut stream).await);
        }
        measured.sort();
        assert!(measured[0] >= round_trip, "nothing is ever early: {:?}", measured[0]);
        let stats = wan.stats();
        assert_eq!((stats.connections, stats.payloads), (1, 2 + round * 2 * 41));
        medians.push(measured[20]);
        let own = 2 * Duration::from_micros(stats.late_p50_us);
        if measured[20] < round_trip + own + TOLERANCE {
            println!("medians {medians:?}, first {first:?}, {stats:?}");
            tasks.shut_down().await;
            return;
        }
    }
    panic!("medians {medians:?}, {:?}", wan.stats());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_keep_their_order_in_any_chunking() {
    let seed = rand::rng().next_u64();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut sent = vec![0; 3 << 20];
    random.fill(&mut sent[..]);

    let tasks = Tasks::default();
    let wan = wan(&tasks);
    let address = route(&wan, echo(&tasks).await).await;
    let (mut read, mut write) = TcpStream::connect(address).await.expect("a route").into_split();
    let pieces = sent.clone();
    tasks.spawn("writer", async move {
        let mut rest = &pieces[..];
        while !rest.is_empty() {
            let largest = if random.random_bool(0.5) { 100 } else { 100_000 };
            let (piece, after) = rest.split_at(random.random_range(1..=largest).min(rest.len()));
            write.write_all(piece).await.expect("an open connection");
            rest = after;
        }
        write.shutdown().await.expect("an open connection");
    });
    let mut got = Vec::new();
    read.read_to_end(&mut got).await.expect("the end travels through the route and back");
    assert!(got == sent, "{} bytes came back of {}", got.len(), sent.len());
    tasks.shut_down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sender_is_held_when_its_receiver_does_not_read() {
    let tasks = Tasks::default();
    let wan = wan(&tasks);
    let deaf = TcpListener::bind("127.0.0.1:0").await.expect("a loopback port");
    let address = route(&wan, deaf.local_addr().expect("an address")).await;
    let mut stream = TcpStream::connect(address).await.expect("a route");
    let (_held, _) = deaf.accept().await.expect("the proxy connects");

    // The link's window and the sockets' own buffers together take far less than this.
    let limit = 256 << 20;
    let mut written = 0;
    let piece = vec![7; 1 << 20];
    let held = loop {
        match tokio::time::timeout(Duration::from_secs(2), stream.write_all(&piece)).await {
            Ok(outcome) => outcome.expect("an open connection"),
            Err(_) => break true,
        }
        written += piece.len();
        if written > limit {
            break false;
        }
    };
    assert!(held, "the emulator swallowed {written} bytes");
    tasks.shut_down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopped_server_refuses_after_one_round_trip() {
    let tasks = Tasks::default();
    let wan = wan(&tasks);
    let upstream = free_addresses(1)[0];
    let address = route(&wan, upstream).await;

    let begun = Instant::now();
    let mut stream = TcpStream::connect(address).await.expect("the route itself is up");
    let ended = stream.read(&mut [0; 1]).await;
    assert!(matches!(ended, Ok(0) | Err(_)), "a connection to nobody ends: {ended:?}");
    assert!(begun.elapsed() >= Duration::from_millis(25), "the refusal travels too");

    let listener = TcpListener::bind(upstream).await.expect("the port is still free");
    let mut stream = TcpStream::connect(address).await.expect("a route");
    let (mut server, _) = listener.accept().await.expect("the proxy connects");
    stream.write_all(b"hello").await.expect("an open connection");
    server.read_exact(&mut [0; 5]).await.expect("the bytes arrive");

    // A server that dies takes the connection with it.
    drop(server);
    let ended = stream.read(&mut [0; 1]).await;
    assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
    tasks.shut_down().await;
}

#[tokio::test]
async fn a_route_to_a_zone_outside_the_matrix_is_an_error() {
    let tasks = Tasks::default();
    let wan = wan(&tasks);
    let here = wan.matrix().zones()[0].clone();
    let nowhere = "nowhere".parse().expect("a plain name");
    let error = wan.route(&here, &nowhere, ([127, 0, 0, 1], 1).into()).await.expect_err("no zone");
    assert!(error.to_string().contains("nowhere"), "{error}");
}

fn cut(way: Way, how: How) -> Cut {
    Cut { from: vec!["a".to_owned()], to: vec!["b".to_owned()], way, how }
}

/// How long a silence is held before it is healed. Only a lower bound is asserted of it.
const SILENCE: Duration = Duration::from_millis(300);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_sent_into_silence_arrive_after_healing() {
    let tasks = Tasks::default();
    let wan = wan(&tasks);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a loopback port");
    let address = route(&wan, listener.local_addr().expect("an address")).await;
    let mut client = TcpStream::connect(address).await.expect("a route");
    client.write_all(b"1").await.expect("an open connection");
    let (mut server, _) = listener.accept().await.expect("the proxy connects");
    server.read_exact(&mut [0]).await.expect("the byte arrives");

    let number = wan.cut(cut(Way::Out, How::Silence)).expect("two zones");
    client.write_all(b"2").await.expect("the sender notices nothing");
    server.write_all(b"3").await.expect("an open connection");
    client.read_exact(&mut [0]).await.expect("the other way is open");
    let unheard = tokio::time::timeout(SILENCE, server.read_exact(&mut [0])).await;
    assert!(unheard.is_err(), "nothing comes through a silent line");

    let healed = Instant::now();
    assert_eq!(wan.heal(Some(number)), 1);
    let mut byte = [0];
    server.read_exact(&mut byte).await.expect("it was kept");
    assert_eq!(byte, *b"2");
    assert!(healed.elapsed() >= Duration::from_millis(200), "TCP needs its time to notice");
    tasks.shut_down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reset_cut_breaks_connections_until_healed() {
    let tasks = Tasks::default();
    let wan = wan(&tasks);
    let address = route(&wan, echo(&tasks).await).await;
    let mut stream = TcpStream::connect(address).await.expect("a route");
    ping(&mut stream).await;
    wan.cut(cut(Way::In, How::Reset)).expect("two zones");
    let ended = stream.read(&mut [0]).await;
    assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
    let mut stream = TcpStream::connect(address).await.expect("the route itself is up");
    let ended = stream.read(&mut [0]).await;
    assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
    assert_eq!(wan.heal(None), 1);
    ping(&mut TcpStream::connect(address).await.expect("a route")).await;
    tasks.shut_down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_of_two_zones_share_the_bandwidth_between_them() {
    let tasks = Tasks::default();
    let wan = wan(&tasks);
    // One way 8 Mbit/s: two connections of 250 kB need half a second together, not a quarter.
    let narrow = Change { bandwidth: Some("8Mbit".parse().expect("a rate")), ..Change::default() };
    wan.set("a", "b", &narrow).expect("two zones");
    let address = route(&wan, echo(&tasks).await).await;
    let begun = Instant::now();
    let send = async || {
        let (mut read, mut write) =
            TcpStream::connect(address).await.expect("a route").into_split();
        let sending = async {
            write.write_all(&vec![7; 250_000]).await.expect("an open connection");
            write.shutdown().await.expect("an open connection");
        };
        let mut got = Vec::new();
        let (read, ()) = tokio::join!(read.read_to_end(&mut got), sending);
        assert_eq!(read.expect("the end arrives"), 250_000);
    };
    tokio::join!(send(), send());
    assert!(begun.elapsed() >= Duration::from_millis(500), "{:?}", begun.elapsed());
    tasks.shut_down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn emulator_reports_changes_made_over_http() {
    let tasks = Tasks::default();
    let wan = wan(&tasks);
    wan.check().await.expect("loopback works");
    let url = format!("http://{}/v1", wan.serve().await.expect("a loopback port"));
    let http = crate::harness::client();
    let send = async |method: &str, path: &str, body: &str| {
        let method = method.parse().expect("a method");
        let request = http.request(method, format!("{url}/{path}")).body(body.to_owned());
        let response = request.send().await.expect("an answer");
        (response.status().as_u16(), response.text().await.expect("a body"))
    };
    assert_eq!(
        send("PATCH", "links/a/b", r#"{"delay_ms": 3, "jitter": "uniform 2ms"}"#).await.0,
        200
    );
    let (status, answer) = send("POST", "cuts", r#"{"from": ["b"], "how": "reset"}"#).await;
    assert_eq!((status, &*answer), (200, r#"{"cut":1}"#));
    let net: serde_json::Value =
        serde_json::from_str(&send("GET", "net", "").await.1).expect("JSON");
    assert_eq!(net["links"][0]["delay_ms"], 3.0, "{net}");
    assert_eq!(net["links"][0]["jitter"], "uniform 2ms", "{net}");
    assert_eq!(net["links"][1]["cut"], "reset", "{net}");
    assert!(net["check"]["late_p99_us"].is_u64(), "{net}");
    assert_eq!(send("DELETE", "cuts", "").await.1, r#"{"healed":1}"#);
    for (method, path, body, status) in [
        ("PATCH", "links/a/x", "{}", 400),
        ("PATCH", "links/a/b", r#"{"speed": 1}"#, 400),
        ("PATCH", "links/a/b", r#"{"loss": 2}"#, 400),
        ("POST", "cuts", r#"{"from": ["a"], "to": ["a"]}"#, 400),
        ("DELETE", "cuts/x", "", 400),
        ("GET", "nothing", "", 404),
    ] {
        assert_eq!(send(method, path, body).await.0, status, "{method} {path} {body}");
    }
    // A page of a browser says where it is from when it changes anything.
    let page = http.post(format!("{url}/cuts")).header("origin", "http://example.org");
    let page = page.body(r#"{"from": ["b"]}"#).send().await.expect("an answer");
    assert_eq!(page.status().as_u16(), 403);
    let heal = tokio::process::Command::new(env!("CARGO_BIN_EXE_geo-load"))
        .args(["net", "--url", url.trim_end_matches("/v1"), "heal", "99"])
        .output();
    let heal = heal.await.expect("it runs");
    let said = String::from_utf8_lossy(&heal.stderr).into_owned();
    assert!(!heal.status.success() && said.contains("there is no cut 99"), "{said}");
    tasks.shut_down().await;
}
