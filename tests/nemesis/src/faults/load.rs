//! Too many requests, garbage on the coordinators' port, and silence on all ports: F27, F30.

use std::time::Duration;

use anyhow::ensure;
use futures::FutureExt as _;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::{Aim, Class, Needs, Outcome, Scene, until};

/// By how much the load grows.
const FACTOR: u64 = 10;
/// By how much at least, sent or shed, on a machine that is too busy to plan them all.
const OVER: u64 = 2;
/// Strange connections of one fault.
const STRANGERS: usize = 60;

/// Silent connections to each port of a zone: more than a coordinator has places for.
const SILENT: usize = 1_100;

/// Longest time until a burst has planned enough.
const PLANNED_MAX: Duration = Duration::from_secs(30);
/// Longest time until a coordinator is back from another fault.
const UP_MAX: Duration = Duration::from_secs(30);
/// Time for which an extra client reads the answer.
const LISTEN: Duration = Duration::from_millis(100);

pub(super) fn classes() -> Vec<Class> {
    let class = |name, number, aim, needs, hold_ms, run| Class {
        name,
        number,
        reduced: true,
        hold_ms,
        aim,
        needs,
        weight: 1,
        run,
    };
    vec![
        class("overload", "F27", Aim::Any, Needs::Load, (1_000, 2_000), |s| {
            overload(s).boxed_local()
        }),
        class("garbage", "F30", Aim::Biased, Needs::Load, (200, 500), |s| garbage(s).boxed_local()),
        class("silence", "F30", Aim::Biased, Needs::Load, (1_000, 3_000), |s| {
            silence(s).boxed_local()
        }),
    ]
}

async fn overload(scene: Scene) -> Outcome {
    let (load, before) = (&scene.load, scene.load.planned());
    let usual = load.usual(scene.hold);
    load.burst(FACTOR);
    scene.hold().await;
    // A starved machine plans late.
    let planned = until("many more requests than usual are planned", PLANNED_MAX, async || {
        Some(load.planned() - before).filter(|planned| *planned > OVER * usual)
    });
    let planned = planned.await;
    load.burst(1);
    Ok(format!("{} requests planned, where {usual} are usual", planned?))
}

/// Bytes that no coordinator ever sends to another.
fn nonsense(random: &mut StdRng) -> Vec<u8> {
    let mut bytes = match random.random_range(0..4) {
        0 => Vec::new(),
        1 => b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        2 => b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
        // A frame that claims sixteen megabytes.
        _ => b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\x00\x00\x00\x00\x00\x01".to_vec(),
    };
    let length = random.random_range(1..4_000);
    bytes.extend((0..length).map(|_| random.random_range(0..=255_u8)));
    bytes
}

/// Extra clients send garbage to a coordinator, which must not be affected.
async fn garbage(scene: Scene) -> Outcome {
    let address = scene.cluster.ground.coordinator(scene.zone);
    let mut random = StdRng::seed_from_u64(scene.seed);
    let (mut sent, mut talks, mut closed) = (0, 0, 0);
    let up = until("it listens", UP_MAX, async || TcpStream::connect(address).await.ok());
    up.await?;
    for _ in 0..STRANGERS {
        let bytes = nonsense(&mut random);
        // Another fault may stop the coordinator.
        let Ok(mut stream) = TcpStream::connect(address).await else { continue };
        if stream.write_all(&bytes).await.is_ok() {
            sent += bytes.len();
            talks += 1;
        }
        let mut answer = Vec::new();
        let end = tokio::time::timeout(LISTEN, stream.read_to_end(&mut answer)).await;
        closed += usize::from(end.is_ok());
    }
    ensure!(sent > 0, "no connection was accepted");
    Ok(format!("{talks} talks, {sent} bytes of nonsense; the coordinator hung up {closed} times"))
}

/// Extra clients connect to every port of a zone and stay silent; its log must advance
/// nevertheless.
async fn silence(scene: Scene) -> Outcome {
    pghc_runtime::connections::raise_limit();
    let ground = &scene.cluster.ground;
    let coordinator = ground.coordinator(scene.zone);
    let up = until("it listens", UP_MAX, async || TcpStream::connect(coordinator).await.ok());
    up.await?;
    let mut silent = Vec::new();
    for address in [coordinator, ground.api(scene.zone, 0)] {
        for _ in 0..SILENT {
            // Another fault may stop the server, or this process may reach its limit of open files.
            silent.extend(TcpStream::connect(address).await.ok());
        }
    }
    scene.hold().await;
    let hung_up = |stream: &TcpStream| matches!(stream.try_read(&mut [0]), Ok(0));
    let (open, closed) = (silent.len(), silent.iter().filter(|stream| hung_up(stream)).count());
    ensure!(open > 0, "no connection was accepted");
    Ok(format!("{open} silent connections; {closed} were hung up on"))
}
