//! Planned moves of the lead, and how long an unplanned one takes.

use std::time::{Duration, Instant};

use super::group::Group;

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_told_to_stop_hands_over_first() {
    let mut group = Group::start().await;
    let mut taken_over = 0;
    for _ in 0..3 {
        group.write().await;
        let leader = group.leader().await;
        let status = group.term(leader).await;
        assert_eq!(status.code(), Some(0));
        let said = group.said(leader);
        assert!(said.contains("handing the lead over"), "{said}");
        taken_over += usize::from(!said.contains("nobody took the lead"));
        group.write().await;
        group.run(leader);
    }
    // A busy machine may be too slow for it once.
    assert!(taken_over >= 2, "{taken_over} of 3");
    group.check().await;
}

/// Longest pause between two acknowledgements while `disturb` happens, a client writing one after
/// the other to a coordinator that stays.
async fn pause(group: &mut Group, disturb: impl FnOnce(&Group)) -> Duration {
    for _ in 0..20 {
        group.write().await;
    }
    let mut longest = Duration::ZERO;
    let started = Instant::now();
    disturb(group);
    while started.elapsed() < Duration::from_millis(1200) {
        let before = Instant::now();
        group.write().await;
        longest = longest.max(before.elapsed());
    }
    longest
}

fn distribution(what: &str, mut all: Vec<Duration>) {
    all.sort();
    let at = |part: usize| all[(all.len() - 1) * part / 100].as_millis();
    println!(
        "{what}: {} moves: p50 {} ms, p90 {} ms, p99 {} ms, max {} ms",
        all.len(),
        at(50),
        at(90),
        at(99),
        at(100)
    );
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement of minutes; cargo test --release --test it members::planned -- --ignored --nocapture"]
async fn pauses_of_planned_and_unplanned_moves_of_the_lead() {
    let mut group = Group::start().await;
    let (mut planned, mut killed) = (Vec::new(), Vec::new());
    for _ in 0..50 {
        let leader = group.leader().await;
        group.only(leader % 3 + 1);
        planned.push(
            pause(&mut group, |group| {
                group.says(&format!("lead {}", (leader + 1) % 3 + 1), 0);
            })
            .await,
        );
        let leader = group.leader().await;
        let stays = leader % 3 + 1;
        group.only(stays);
        let pid = group.pid(leader);
        killed.push(
            pause(&mut group, |_| {
                nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).expect("it ran");
            })
            .await,
        );
        group.kill(leader);
        group.run(leader);
        group.only(0);
        group.write().await;
    }
    distribution("planned", planned);
    distribution("kill -9", killed);
}
