//! Disks that were wiped, copied, exchanged or put back: each is refused with the way out, and the
//! way out works.

use std::fs;

use super::group::{Group, copy};
use crate::harness::wait_for;

/// Does what the refusal says: coordinator 4 in the place of `old`; then it must be able to decide.
async fn replaced(mut group: Group, old: u64) {
    group.write().await;
    group.join(4).await;
    let four = group.member(4);
    group.says(&format!("replace {old} {four}"), 0);
    let mut voters: Vec<u64> = (1..=4).filter(|id| *id != old).collect();
    assert_eq!(group.voters().await, voters);
    group.write().await;
    // With one more away, nothing is acknowledged but by the new one's vote and disk.
    voters.retain(|id| *id != 4);
    group.kill(voters[0]);
    group.write().await;
    group.check().await;
}

/// Removes files of coordinator `victim` while it is stopped; it must be replaced then.
async fn wiped(mut group: Group, victim: u64, what: &str) {
    group.kill(victim);
    fs::remove_dir_all(group.data(victim).join(what)).expect("removed");
    group.run(victim);
    group.refuses(victim, "pghc members replace").await;
    replaced(group, victim).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wiped_directory_is_refused_until_replaced() {
    let mut group = Group::start_unhurried().await;
    group.write().await;
    let follower = group.leader().await % 3 + 1;
    wiped(group, follower, "").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wiped_leader_is_refused_until_replaced() {
    let mut group = Group::start_unhurried().await;
    group.write().await;
    let leader = group.leader().await;
    wiped(group, leader, "").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wiped_log_is_refused_until_replaced() {
    let mut group = Group::start_unhurried().await;
    group.write().await;
    wiped(group, 2, "log").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_wiped_directories_of_three_found_no_second_group() {
    let mut group = Group::start_unhurried().await;
    group.write().await;
    for id in 1..=3 {
        group.kill(id);
    }
    for id in [1, 2] {
        fs::remove_dir_all(group.data(id)).expect("removed");
        group.run(id);
    }
    for id in [1, 2] {
        group.waits(id).await;
        assert!(group.is_running(id), "they wait for the third");
    }
    group.run(3);
    group.refuses(1, "pghc members replace").await;
    group.refuses(2, "pghc members replace").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copied_directory_is_refused_while_the_original_goes_on() {
    let mut group = Group::start_unhurried().await;
    for _ in 0..5 {
        group.write().await;
    }
    let there = group.data(9);
    copy(&group.data(2), &there);
    for more in [&[][..], &["--join"]] {
        group.run_on(9, 2, &there, more);
        group.refuses(9, "is a copy").await;
    }
    assert!(group.is_running(2));
    // Also while the original is away the copy does not take its place.
    group.kill(2);
    group.run_on(9, 2, &there, &[]);
    group.write().await;
    group.run(2);
    group.refuses(9, "is a copy").await;
    group.write().await;
    group.check().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn swapped_directories_are_refused_until_swapped_back() {
    let mut group = Group::start_unhurried().await;
    group.write().await;
    group.kill(2);
    group.kill(3);
    let swap = |group: &Group, what: &str| {
        let [two, three] = [2, 3].map(|id| group.data(id).join(what));
        let aside = group.data(7);
        fs::rename(&two, &aside).expect("moved");
        fs::rename(&three, &two).expect("moved");
        fs::rename(&aside, &three).expect("moved");
    };
    for (what, words) in [("", "holds the data of coordinator"), ("log", "pghc members replace")] {
        swap(&group, what);
        for id in [2, 3] {
            group.run(id);
            group.refuses(id, words).await;
        }
        swap(&group, what);
    }
    group.run(2);
    group.run(3);
    group.write().await;
    group.check().await;
}

/// A backup of a follower, and then writes that it acknowledged itself.
async fn with_backup() -> (Group, u64) {
    let mut group = Group::start_unhurried().await;
    group.write().await;
    let victim = group.leader().await % 3 + 1;
    group.kill(victim);
    copy(&group.data(victim), &group.data(9));
    group.run(victim);
    // Both others know of this start then.
    wait_for("its admission", async || group.said(victim).contains(": admitted").then_some(()))
        .await;
    group.leader().await;
    let other = (1..=3).find(|id| *id != victim && *id != group_leader(victim)).expect("three");
    // Only together with the victim is there a majority.
    group.kill(other);
    for _ in 0..5 {
        group.write().await;
    }
    group.run(other);
    (group, victim)
}

/// The leader before, as [`with_backup`] chose the victim.
fn group_leader(victim: u64) -> u64 {
    (victim + 1) % 3 + 1
}

fn put_back(group: &Group, victim: u64) {
    fs::remove_dir_all(group.data(victim)).expect("removed");
    copy(&group.data(9), &group.data(victim));
}

#[tokio::test(flavor = "multi_thread")]
async fn old_backup_is_refused_until_replaced() {
    let (mut group, victim) = with_backup().await;
    group.kill(victim);
    put_back(&group, victim);
    group.run(victim);
    group.refuses(victim, "pghc members replace").await;
    replaced(group, victim).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_backup_is_refused_after_everything_was_off() {
    let (mut group, victim) = with_backup().await;
    for id in 1..=3 {
        group.kill(id);
    }
    put_back(&group, victim);
    for id in 1..=3 {
        group.run(id);
    }
    group.refuses(victim, "pghc members replace").await;
    replaced(group, victim).await;
}
