//! Claims about the WAN emulator, through real sockets.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use pghc::task::Tasks;
use pghc::wan::{Matrix, Wan};
use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// How far a round trip may be from the matrix on a loaded machine with two cores.
const TOLERANCE: Duration = Duration::from_millis(3);

fn matrix() -> Matrix {
    "zone,a,b\na,0,20\nb,30,0\n".parse().expect("a good matrix")
}

fn wan(tasks: &Tasks) -> Wan {
    Wan::start(matrix(), tasks).expect("a thread")
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
async fn the_median_round_trip_is_that_of_the_matrix_and_a_connection_costs_one_more() {
    let tasks = Tasks::default();
    let wan = wan(&tasks);
    let address = route(&wan, echo(&tasks).await).await;
    let round_trip = Duration::from_millis(10 + 15);

    let mut stream = TcpStream::connect(address).await.expect("a route");
    stream.set_nodelay(true).expect("a socket");
    let first = ping(&mut stream).await;
    assert!(first >= 2 * round_trip, "the first byte waits for the handshake: {first:?}");

    let mut measured = Vec::new();
    for _ in 0..41 {
        measured.push(ping(&mut stream).await);
    }
    measured.sort();
    let median = measured[20];
    assert!(measured[0] >= round_trip, "nothing is ever early: {:?}", measured[0]);
    assert!(median < round_trip + TOLERANCE, "median {median:?}");
    let stats = wan.stats();
    assert_eq!((stats.connections, stats.payloads), (1, 84));
    println!("median {median:?}, first {first:?}, {stats:?}");
    tasks.shut_down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_and_their_order_are_kept_whatever_their_pieces() {
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
async fn a_server_that_is_down_refuses_after_a_round_trip_and_may_come_back() {
    let tasks = Tasks::default();
    let wan = wan(&tasks);
    let free = TcpListener::bind("127.0.0.1:0").await.expect("a loopback port");
    let upstream = free.local_addr().expect("an address");
    drop(free);
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
