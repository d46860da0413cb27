//! Planned moves of leadership, and how long an unplanned one takes.

use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};

use super::group::{Group, zone};
use crate::harness::wait_for;

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_told_to_stop_hands_over_first() {
    let mut group = Group::start_unhurried().await;
    let mut taken_over = 0;
    for _ in 0..3 {
        group.write().await;
        let leader = group.leader().await;
        let status = group.term(leader).await;
        assert_eq!(status.code(), Some(0));
        let said = group.said(leader);
        assert!(said.contains("leadership transfer started"), "{said}");
        taken_over += usize::from(!said.contains("election follows after a timeout"));
        group.write().await;
        group.run(leader);
    }
    // A busy machine may be too slow for it once.
    assert!(taken_over >= 2, "{taken_over} of 3");
    group.check().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_stops_waits_for_heirs_that_are_slow() {
    let mut group = Group::start().await;
    let leader = group.leader().await;
    let heirs: Vec<_> = (1..=3).filter(|id| *id != leader).map(|id| group.pid(id)).collect();
    for heir in &heirs {
        kill(*heir, Signal::SIGSTOP).expect("ours");
    }
    kill(group.pid(leader), Signal::SIGTERM).expect("ours");
    wait_for("both heirs to have been asked", async || {
        (group.said(leader).matches("leadership transfer started").count() == 2).then_some(())
    })
    .await;
    for heir in &heirs {
        kill(*heir, Signal::SIGCONT).expect("ours");
    }
    let (status, _) = group.ended(leader).await;
    assert_eq!(status.code(), Some(0));
    let said = group.said(leader);
    assert!(!said.contains("election follows after a timeout"), "{said}");
    group.run(leader);
    group.write().await;
    group.check().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn auto_placement_switch_survives_leader_restart() {
    let mut group = Group::start_unhurried().await;
    for _ in 0..30 {
        group.write().await;
    }
    let leader = group.leader().await;
    // The leader has received every row of the matrix: three zones, six round trips.
    let shown = wait_for("a whole matrix", async || {
        let shown = group.leader_says("show", 0);
        let rows = shown.lines().skip_while(|line| !line.contains("round trips"));
        let rows = rows.take_while(|line| !line.is_empty());
        let cells = rows.flat_map(str::split_whitespace).filter(|cell| cell.contains('.'));
        (cells.count() == 6).then_some(shown)
    })
    .await;
    let leads = format!("coordinator {leader} in {} leads", zone(leader));
    assert!(shown.contains(&leads) && shown.contains("placement of the lead is off"), "{shown}");
    let to = leader % 3 + 1;
    let said = group.leader_says(&format!("move {to} --dry-run"), 0);
    assert!(said.contains("nothing was changed") && said.contains("predicted now"), "{said}");
    let handed_over = |group: &Group| group.said(leader).contains("leadership transfer started");
    assert!(!handed_over(&group));
    let said = group.leader_says(&format!("move {}", zone(to)), 0);
    assert!(said.contains("done") && handed_over(&group), "{said}");
    wait_for("the new leader", async || (group.leader().await == to).then_some(())).await;
    group.leader_says("move mars", 1);

    assert!(group.leader_says("auto on", 0).contains("is on"));
    assert!(group.leader_says("auto on", 0).contains("already"));
    // The others hear of it with the next ping, and keep it.
    for id in 1..=3 {
        let file = group.data(id).join("placement.json");
        wait_for("the switch on disk", async || {
            std::fs::read_to_string(&file).ok().filter(|text| text.contains("true"))
        })
        .await;
    }
    group.kill(to);
    group.write().await;
    assert!(group.leader_says("auto", 0).contains("is on"));
    for id in (1..=3).filter(|id| *id != to) {
        group.kill(id);
    }
    (1..=3).for_each(|id| group.run(id));
    group.write().await;
    assert!(group.leader_says("auto show", 0).contains("is on"));
    assert!(group.leader_says("auto off", 0).contains("is off"));
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
async fn pauses_of_planned_or_forced_leadership_moves() {
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
