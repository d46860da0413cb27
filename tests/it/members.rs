//! Members come and go while writes go on, and a disk that has forgotten something never votes.

mod group;
mod identity;
mod planned;

use group::Group;

use crate::harness::wait_for;

#[tokio::test(flavor = "multi_thread")]
async fn group_is_founded_once_all_founders_are_present() {
    let mut group = Group::empty();
    group.run(1);
    group.run(2);
    group.waits(1).await;
    group.waits(2).await;
    let mut client = group.client(1);
    let view =
        client.report(pghc_runtime::rpc::v1::ZoneReport::default()).await.expect("it serves");
    assert_eq!((view.get_ref().leader, view.get_ref().members.len()), (0, 0));
    group.run(3);
    group.leader().await;
    group.write().await;
    for id in 1..=3 {
        group.kill(id);
    }
    group.run(2);
    group.run(3);
    group.write().await;
    group.check().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn member_commands_can_be_repeated() {
    let mut group = Group::start_unhurried().await;
    group.write().await;
    let four = group.member(4);
    let said = group.says(&format!("add {four}"), 1);
    assert!(said.contains("--join"), "{said}");
    group.join(4).await;
    let said = group.says(&format!("add {four} --dry-run"), 0);
    assert!(said.contains("3 of 4 must agree") && said.contains("nothing was changed"), "{said}");
    assert_eq!(group.voters().await, [1, 2, 3]);
    group.says(&format!("add {four} --learner"), 0);
    assert_eq!(group.list().await.members.len(), 4);
    assert_eq!(group.voters().await, [1, 2, 3]);
    group.write().await;
    for (line, voters) in [
        ("promote 4", vec![1, 2, 3, 4]),
        ("demote 1", vec![2, 3, 4]),
        ("promote 1", vec![1, 2, 3, 4]),
        ("remove 2", vec![1, 3, 4]),
        ("lead 4", vec![1, 3, 4]),
    ] {
        group.says(line, 0);
        assert_eq!(group.voters().await, voters, "{line}");
        let again = group.says(line, 0);
        assert!(again.contains("nothing to do"), "{line}: {again}");
        group.write().await;
    }
    wait_for("the new leader", async || (group.leader().await == 4).then_some(())).await;
    let said = group.says("remove 1", 1);
    assert!(said.contains("--force"), "{said}");
    let said = group.says("remove 9", 0);
    assert!(said.contains("nothing to do"), "{said}");
    group.kill(2);
    group.run(2);
    group.refuses(2, "no longer a member").await;
    // The leader itself goes.
    group.says("remove 4 --force", 0);
    assert_eq!(group.voters().await, [1, 3]);
    group.kill(4);
    group.write().await;
    group.check().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn group_restarts_with_stored_members_over_settings() {
    let mut group = Group::start_unhurried().await;
    group.join(4).await;
    let four = group.member(4);
    group.says(&format!("replace 1 {four}"), 0);
    group.kill(1);
    group.write().await;
    for id in 2..=4 {
        group.kill(id);
    }
    // The settings still name 1, 2 and 3 as founders, and none of 2 and 3 the address of 4.
    for id in 2..=4 {
        group.run_with_own_member(id);
    }
    group.write().await;
    assert_eq!(group.voters().await, [2, 3, 4]);
    group.check().await;
}
