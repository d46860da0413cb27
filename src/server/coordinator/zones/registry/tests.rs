//! Tests of the zone registry and its reports.

use std::collections::BTreeSet;
use std::sync::Arc;

use pghc_api::id::{ClusterId, ZoneName};
use pghc_api::limits::ZONES_MAX;
use pghc_runtime::rpc::v1::ZoneReport;
use pghc_runtime::task::fair_watch;
use tokio::time::Instant;

use crate::coordinator::zones::registry::{
    Feed, MemberZones, Refusal, SILENT_AFTER, State, UNKNOWN_FOR, UNKNOWN_MAX, Zones,
};
use crate::sequencer::{Sequencer, ZoneAct, ZoneChange, Zones as Registry};

const ALL: Feed = Feed { first_id: 1, log_first_id: 1, earlier_head: 0 };

fn report(zone: &str, frontier: u64) -> ZoneReport {
    let (zone, node) = (zone.to_owned(), format!("{zone}-1"));
    ZoneReport { zone, node, is_applier: true, frontier, flushed: frontier, ..Default::default() }
}

fn registry(acts: &[(ZoneAct, &str)]) -> Arc<Registry> {
    let cluster: ClusterId = "00000000-0000-4000-8000-000000000001".parse().expect("a UUID");
    let mut sequencer = Sequencer::new(cluster);
    for (index, (act, zone)) in (1..).zip(acts) {
        let change = ZoneChange { act: *act, zone: zone.parse().expect("a plain name") };
        sequencer.advance(index, change.encode()).expect("a change");
    }
    Arc::new(sequencer.zones().clone())
}

fn zones_of(names: &[&str], since: Instant) -> (fair_watch::Sender<Arc<Registry>>, Zones) {
    let acts: Vec<_> = names.iter().map(|name| (ZoneAct::Register, *name)).collect();
    let (sender, receiver) = fair_watch::channel(registry(&acts));
    (sender, Zones::new(receiver, (Vec::new(), member_zones(&[])), since))
}

fn member_zones(names: &[&str]) -> MemberZones {
    let names: BTreeSet<ZoneName> =
        names.iter().map(|name| name.parse().expect("a plain name")).collect();
    Box::new(move || names.clone())
}

#[test]
fn zone_without_report_is_awaited_like_a_silent_one() {
    let now = Instant::now();
    let (_registry, zones) = zones_of(&["eu", "us"], now);
    zones.report(report("eu", 9), now).expect("taken");
    assert_eq!(zones.behind(4, ALL, now), ["us"]);
    assert!(zones.behind(4, ALL, now + SILENT_AFTER).is_empty());
}

#[test]
fn only_live_feedable_zone_is_awaited() {
    let now = Instant::now();
    let (registry_changes, zones) = zones_of(&["eu", "us", "ap", "sa", "gone"], now);
    for (zone, frontier) in [("eu", 3), ("us", 9), ("gone", 3)] {
        zones.report(report(zone, frontier), now).expect("taken");
    }
    let halted = ZoneReport { halted: "why".to_owned(), ..report("ap", 2) };
    zones.report(halted, now).expect("taken");
    zones.report(ZoneReport { backfilling: true, ..report("sa", 2) }, now).expect("taken");
    assert_eq!(zones.behind(4, ALL, now), ["eu", "gone"]);
    let acts = [(ZoneAct::Register, "eu"), (ZoneAct::Add, "gone"), (ZoneAct::Remove, "gone")];
    registry_changes.send_replace(registry(&acts));
    assert_eq!(zones.behind(4, ALL, now), ["eu"]);
    assert!(zones.behind(4, Feed { first_id: 5, ..ALL }, now).is_empty(), "eu is detached");
    assert!(zones.behind(4, ALL, now + SILENT_AFTER).is_empty());
}

#[test]
fn standby_state_counts_only_without_an_applier() {
    let now = Instant::now();
    let (_registry, zones) = zones_of(&[], now);
    zones.report(report("eu", 3), now).expect("taken");
    let degraded_reason = "its own connection".to_owned();
    let standby = ZoneReport { is_applier: false, degraded_reason, ..report("eu", 3) };
    zones.report(standby.clone(), now).expect("taken");
    assert_eq!(zones.views(ALL, now)[0].degraded_reason, "");
    zones.report(standby, now + SILENT_AFTER * 2).expect("taken");
    assert_eq!(zones.views(ALL, now + SILENT_AFTER * 2)[0].degraded_reason, "its own connection");
}

#[test]
fn log_is_kept_until_every_zone_has_reported() {
    let now = Instant::now();
    let (_registry, zones) = zones_of(&["eu", "us"], now);
    zones.report(report("eu", 3), now).expect("taken");
    assert_eq!(zones.unneeded_up_to(ALL), None);
    zones.report(report("us", 2), now).expect("taken");
    zones.report(report("not-registered", 1), now).expect_err("not known");
    assert_eq!(zones.unneeded_up_to(ALL), Some(2));
}

#[test]
fn known_zones_hold_the_log_before_registration() {
    let now = Instant::now();
    let (registry_changes, receiver) = fair_watch::channel(registry(&[]));
    let expected = vec!["us".parse().expect("a plain name")];
    let zones = Zones::new(receiver, (expected, member_zones(&[])), now);
    assert_eq!(zones.unneeded_up_to(ALL), None);
    zones.report(report("eu", 3), now).expect("taken");
    assert_eq!(zones.unneeded_up_to(ALL), None, "us has a coordinator and no report");
    zones.report(report("us", 2), now).expect("taken");
    assert_eq!(zones.unneeded_up_to(ALL), Some(2));
    registry_changes.send_replace(registry(&[(ZoneAct::Register, "eu")]));
    assert_eq!(zones.unneeded_up_to(ALL), Some(3));
    let (_registry, nobody) = zones_of(&[], now);
    assert_eq!(nobody.unneeded_up_to(ALL), None, "a new zone may need everything");
}

#[test]
fn standby_report_alone_does_not_detach_its_zone() {
    let now = Instant::now();
    let (_registry, zones) = zones_of(&["eu"], now);
    zones.report(ZoneReport { is_applier: false, ..report("eu", 3) }, now).expect("taken");
    let far = Feed { first_id: 50, log_first_id: 50, ..ALL };
    assert_eq!(zones.unneeded_up_to(far), None);
    assert_eq!(zones.views(far, now)[0].state(), State::Lagging);
    assert_eq!(zones.behind(4, far, now), ["eu"]);
}

#[test]
fn detached_zone_holds_back_nothing() {
    let now = Instant::now();
    let (_registry, zones) = zones_of(&["eu", "us"], now);
    zones.report(report("eu", 30), now).expect("taken");
    zones.report(report("us", 2), now).expect("taken");
    assert_eq!(zones.unneeded_up_to(Feed { log_first_id: 3, ..ALL }), Some(2));
    assert_eq!(zones.unneeded_up_to(Feed { log_first_id: 4, ..ALL }), Some(30));
    let in_memory = zones.views(Feed { log_first_id: 4, ..ALL }, now);
    assert!(in_memory.iter().all(|view| view.state() == State::Live), "{in_memory:?}");
    let states = zones.views(Feed { first_id: 4, ..ALL }, now);
    let states: Vec<_> = states.iter().map(|view| (view.zone.as_str(), view.state())).collect();
    assert_eq!(states, [("eu", State::Live), ("us", State::Detached)]);
}

#[test]
fn removed_zone_is_refused_until_added() {
    let now = Instant::now();
    let (registry_changes, zones) = zones_of(&["eu", "us"], now);
    zones.report(report("eu", 30), now).expect("taken");
    zones.report(report("us", 2), now).expect("taken");
    let acts = [(ZoneAct::Register, "eu"), (ZoneAct::Add, "us"), (ZoneAct::Remove, "us")];
    registry_changes.send_replace(registry(&acts));
    assert_eq!(zones.unneeded_up_to(ALL), Some(30));
    assert_eq!(zones.views(ALL, now).len(), 1, "it is not shown");
    let refusal = zones.report(report("us", 2), now).expect_err("refused");
    assert!(refusal.to_string().contains("pghc zone add us"), "{refusal}");
    assert!(zones.unregistered().is_empty());
    registry_changes.send_replace(registry(&acts[..2]));
    zones.report(report("us", 2), now).expect("taken again");
    assert_eq!(zones.unneeded_up_to(ALL), Some(2));
}

#[test]
fn members_zone_is_a_newcomer_until_registered() {
    let now = Instant::now();
    let (registry_changes, receiver) = fair_watch::channel(registry(&[(ZoneAct::Register, "eu")]));
    let zones = Zones::new(receiver, (Vec::new(), member_zones(&["eu", "us"])), now);
    let mut newcomers = zones.newcomers();
    zones.report(report("us", 3), now).expect("taken");
    assert!(newcomers.has_changed().expect("there"));
    newcomers.borrow_and_update();
    assert_eq!(zones.unregistered(), ["us".parse::<ZoneName>().expect("a plain name")]);
    registry_changes.send_replace(registry(&[(ZoneAct::Add, "eu"), (ZoneAct::Register, "us")]));
    zones.report(report("us", 3), now).expect("taken");
    assert!(!newcomers.has_changed().expect("there"));
    assert!(zones.unregistered().is_empty() && zones.views(ALL, now)[1].registered);
}

#[test]
fn unknown_zone_is_refused() {
    let now = Instant::now();
    let (registry_changes, zones) = zones_of(&["eu"], now);
    zones.report(report("eu", 9), now).expect("taken");
    let refusal = zones.report(report("uk", 3), now).expect_err("unknown");
    assert!(refusal.to_string().contains("pghc zone add uk"), "{refusal}");
    assert!(zones.unregistered().is_empty(), "no leader registers it by itself");
    assert_eq!((zones.unneeded_up_to(ALL), zones.behind(9, ALL, now)), (Some(9), Vec::new()));
    let shown = |now| -> Vec<(String, bool)> {
        zones.views(ALL, now).into_iter().map(|it| (it.zone, it.registered)).collect()
    };
    assert_eq!(shown(now), [("eu".to_owned(), true), ("uk".to_owned(), false)]);
    for number in 0..2 * UNKNOWN_MAX {
        zones.report(report(&format!("z{number}"), 3), now).expect_err("not known");
    }
    assert_eq!(shown(now).len(), 1 + UNKNOWN_MAX, "unknown zones are bounded");
    let later = now + UNKNOWN_FOR;
    zones.report(report("uk", 3), later).expect_err("not known");
    assert_eq!(shown(later).len(), 2, "the silent ones are forgotten");
    registry_changes.send_replace(registry(&[(ZoneAct::Register, "eu"), (ZoneAct::Add, "uk")]));
    zones.report(report("uk", 3), later).expect("taken");
    assert_eq!(zones.unneeded_up_to(ALL), Some(3));
}

#[test]
fn removed_zone_is_forgotten_without_members() {
    let acts = [(ZoneAct::Register, "eu"), (ZoneAct::Register, "us"), (ZoneAct::Remove, "us")];
    for (members, forgettable) in [(&["eu", "us"][..], 0), (&["eu"], 1)] {
        let (_changes, receiver) = fair_watch::channel(registry(&acts));
        let zones = Zones::new(receiver, (Vec::new(), member_zones(members)), Instant::now());
        assert_eq!(zones.forgettable().len(), forgettable);
    }
}

#[test]
fn second_process_of_one_name_is_refused() {
    let now = Instant::now();
    let (_registry, zones) = zones_of(&["eu"], now);
    let of = |session: u8, place: &str, frontier| ZoneReport {
        session: vec![session; 16].into(),
        place: place.to_owned(),
        ..report("eu", frontier)
    };
    zones.report(of(1, "a", 3), now).expect("taken");
    let refusal = zones.report(of(2, "b", 9), now).expect_err("another has the name");
    assert!(refusal.to_string().contains("eu-1 is in use by another process"), "{refusal}");
    assert_eq!(zones.views(ALL, now)[0].frontier, 3, "the second report is dropped");
}

#[test]
fn excess_zone_or_invalid_name_is_refused() {
    let now = Instant::now();
    let names: Vec<String> = (0..ZONES_MAX).map(|number| format!("z{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let acts: Vec<_> = names.iter().map(|name| (ZoneAct::Register, *name)).collect();
    let (_registry, receiver) = fair_watch::channel(registry(&acts));
    let zones = Zones::new(receiver, (Vec::new(), member_zones(&["more"])), now);
    zones.report(report("z7", 1), now).expect("known");
    let refusal = zones.report(report("more", 1), now).expect_err("one too many");
    assert!(matches!(refusal, Refusal::Full(_)), "{refusal}");
    let refusal = zones.report(report("no name", 1), now).expect_err("a space");
    assert!(matches!(refusal, Refusal::Name(_)), "{refusal}");
}
