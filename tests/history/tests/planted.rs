//! The checker finds what is planted: into a good history one violation of each kind is put, and
//! exactly that verdict is expected. A good history, of whatever seed, has none.

#![allow(clippy::unwrap_used, reason = "helpers of tests, too")]

use std::collections::BTreeSet;

use pghc_api::chain::{Digest, LinkHash, link_digest, link_hash};
use pghc_api::id::WriteId;
use pghc_api::time::Micros;
use pghc_history::jsonl::Run;
use pghc_history::synthetic::{Settings, cluster};
use pghc_history::{
    Fingerprint, Kind, Link, Operation, Options, OrderResult, ReadOutcome, Report, Reset, Snapshot,
    Verdict, What, check,
};
use proptest::prelude::{ProptestConfig, any, prop_assert_eq, proptest};

/// Clients beyond the synthetic ones, so that planted operations disturb no session.
const EXTRA_CLIENT: u32 = 1_000;

fn good() -> Run {
    Settings { operations: 2_000, ..Default::default() }.run(7)
}

fn judge(run: &Run) -> Report {
    check(&run.history, &run.zones, &Options::new(cluster()))
}

/// Checks that these kinds are found, nothing else, and that the report can be read.
fn expect(run: &Run, kinds: &[Kind]) -> Report {
    let report = judge(run);
    let found: BTreeSet<Kind> = report.totals.keys().copied().collect();
    let text = report.render(&run.history);
    assert_eq!(found, kinds.iter().copied().collect(), "{text}");
    assert_eq!(report.verdict(), Verdict::Violated);
    assert!(text.contains(kinds[0].as_str()) && text.contains(kinds[0].invariant()), "{text}");
    report
}

fn newest(run: &Run) -> u64 {
    run.zones[0].links.len() as u64
}

fn link(run: &Run, id: u64) -> Link {
    run.zones[0].links[usize::try_from(id - 1).unwrap()].clone()
}

/// Recomputes hash and digest of every zone's links, and corrects the answers' digests, as if the
/// cluster really had these links in this order.
fn settle(run: &mut Run) {
    for chain in &mut run.zones {
        let mut before: Option<(LinkHash, Digest)> = None;
        for (link, id) in chain.links.iter_mut().zip(1..) {
            link.id = id;
            let id = WriteId::try_from(id).unwrap();
            let (hash, digest) = before.unzip();
            link.hash = link_hash(id, &link.node, hash);
            let (node, at) = (&link.node, link.written_at);
            link.digest = link_digest(&cluster(), id, node, at, link.payload, digest);
            before = Some((link.hash, link.digest));
        }
    }
    adopt(run);
}

/// Corrects the digests that were answered to those of the chain.
fn adopt(run: &mut Run) {
    let links = run.zones[0].links.clone();
    let at = |id: u64| links.get(usize::try_from(id.checked_sub(1)?).unwrap()).map(|l| l.digest);
    for operation in &mut run.history.operations {
        match &mut operation.what {
            What::Write { outcome: OrderResult::Acknowledged { id, digest, .. }, .. } => {
                *digest = at(*id).unwrap_or(*digest);
            }
            What::Read { outcome: ReadOutcome::Seen { frontier, digest }, .. } => {
                *digest = at(*frontier).or(*digest);
            }
            _ => {}
        }
    }
    for shot in &mut run.history.snapshots {
        shot.digest = at(shot.max_id).or(shot.digest);
    }
}

/// Appends a link with this payload to every zone.
fn append(run: &mut Run, payload: Digest) -> u64 {
    for chain in &mut run.zones {
        let last = chain.links.last().unwrap().clone();
        chain.links.push(Link { id: last.id + 1, payload: Some(payload), ..last });
    }
    settle(run);
    newest(run)
}

fn operation(run: &mut Run, session: u32, started: u64, ended: u64, what: What) -> usize {
    let operation = Operation { client: EXTRA_CLIENT, session, zone: 0, started, ended, what };
    run.history.operations.push(operation);
    run.history.operations.len() - 1
}

fn write(key: Option<u64>, payload: Digest, outcome: OrderResult) -> What {
    What::Write { key, payload: Some(payload.into()), outcome }
}

fn acknowledged(run: &Run, id: u64) -> OrderResult {
    OrderResult::Acknowledged { id, digest: link(run, id).digest, repeated: false, applied: true }
}

fn read(at_least: Option<u64>, linearizable: bool, frontier: u64) -> What {
    let outcome = ReadOutcome::Seen { frontier, digest: None };
    What::Read { at_least, linearizable, outcome }
}

/// After everything else.
fn late(run: &Run) -> u64 {
    run.history.operations.iter().map(|op| op.ended).max().unwrap() + 1_000_000
}

/// The first operation whose acknowledged id is at least `id`.
fn acknowledgement(run: &Run, least: u64) -> usize {
    let fits = |op: &Operation| matches!(op.what, What::Write { key: Some(_), outcome: OrderResult::Acknowledged { id, repeated: false, .. }, .. } if id >= least);
    run.history.operations.iter().position(fits).unwrap()
}

fn outcome_of(operation: &mut Operation) -> &mut OrderResult {
    let What::Write { outcome, .. } = &mut operation.what else { panic!("not a write") };
    outcome
}

#[test]
fn an_acknowledged_write_that_is_not_in_the_chain_is_lost() {
    let mut run = good();
    let (at, id) = (late(&run), newest(&run) + 1);
    let outcome =
        OrderResult::Acknowledged { id, digest: Digest([1; 32]), repeated: false, applied: true };
    let place = operation(&mut run, 0, at, at + 1, write(None, Digest([1; 32]), outcome));
    let report = expect(&run, &[Kind::LostWrite]);
    assert_eq!(report.violations[0].operations, [place]);

    let mut run = good();
    let outcome = OrderResult::Committed { id };
    operation(&mut run, 0, at, at + 1, write(None, Digest([1; 32]), outcome));
    expect(&run, &[Kind::LostWrite]);
}

#[test]
fn a_chain_cut_after_an_acknowledgement_has_lost_a_write() {
    let mut run = good();
    run.history.snapshots.clear();
    run.history.operations.retain(|op| matches!(op.what, What::Write { .. }));
    let last = run.zones[0].links.last().unwrap().fingerprint();
    let acked = run.history.operations.iter().any(|op| {
        matches!(op.what, What::Write { payload, outcome: OrderResult::Acknowledged { .. }, .. } if payload == last)
    });
    assert!(acked, "seed 7 ends with an acknowledged write");
    run.zones.iter_mut().for_each(|chain| drop(chain.links.pop()));
    expect(&run, &[Kind::LostWrite]);
}

#[test]
fn another_digest_or_payload_is_a_replaced_write() {
    let mut run = good();
    let at = acknowledgement(&run, 10);
    if let OrderResult::Acknowledged { digest, .. } = outcome_of(&mut run.history.operations[at]) {
        digest.0[15] ^= 1;
    }
    // The payload had one sender only, so the link has no sender now.
    expect(&run, &[Kind::ReplacedWrite, Kind::Phantom]);

    let mut run = good();
    let at = acknowledgement(&run, 10);
    let operation = run.history.operations[at].clone();
    let What::Write { key, outcome, .. } = operation.what else { unreachable!() };
    run.history.operations.push(Operation {
        client: EXTRA_CLIENT,
        what: What::Write { key, payload: Some(Fingerprint([9; 16])), outcome },
        ..operation
    });
    expect(&run, &[Kind::ReplacedWrite]);
}

#[test]
fn read_of_missing_link_is_lost_read() {
    let mut run = good();
    let (at, id) = (late(&run), newest(&run) + 5);
    operation(&mut run, 0, at, at + 1, read(None, false, id));
    expect(&run, &[Kind::LostSight]);

    let mut run = good();
    let outcome = ReadOutcome::Seen { frontier: 3, digest: Some(Digest([0; 32])) };
    let what = What::Read { at_least: None, linearizable: false, outcome };
    operation(&mut run, 0, at, at + 1, what);
    expect(&run, &[Kind::LostSight]);
}

#[test]
fn a_payload_under_two_ids_was_written_twice() {
    let mut run = good();
    let payload = link(&run, 5).payload.unwrap();
    let second = append(&mut run, payload);
    let report = expect(&run, &[Kind::WrittenTwice]);
    assert!(report.violations[0].sentence.contains(&second.to_string()));
}

#[test]
fn a_key_under_two_ids_is_found_although_the_payloads_differ() {
    let mut run = good();
    let at = acknowledgement(&run, 10);
    let What::Write { key, .. } = run.history.operations[at].what else { unreachable!() };
    let id = append(&mut run, Digest([4; 32]));
    let (now, outcome) = (late(&run), acknowledged(&run, id));
    operation(&mut run, 0, now, now + 1, write(key, Digest([4; 32]), outcome));
    expect(&run, &[Kind::KeyTwice]);
}

#[test]
fn an_id_answered_to_two_keys_is_found() {
    let mut run = good();
    let at = acknowledgement(&run, 10);
    let mut copy = run.history.operations[at].clone();
    copy.client = EXTRA_CLIENT;
    let What::Write { key, .. } = &mut copy.what else { unreachable!() };
    *key = Some(u64::MAX);
    run.history.operations.push(copy);
    expect(&run, &[Kind::KeysMixed]);
}

#[test]
fn a_missing_row_is_a_gap() {
    let mut run = good();
    run.zones[1].links.remove(41);
    let report = expect(&run, &[Kind::NotDense]);
    assert_eq!(report.violations[0].id, 42);
}

#[test]
fn a_row_that_differs_in_one_zone_is_a_fork() {
    type Change = fn(&mut Link);
    let changes: [Change; 5] = [
        |link| link.hash.0[0] ^= 1,
        |link| link.digest.0[31] ^= 1,
        |link| link.written_at.0 += 1,
        |link| link.payload = None,
        |link| link.node = "zz-9".parse().unwrap(),
    ];
    for change in changes {
        let mut run = good();
        change(&mut run.zones[2].links[99]);
        let report = expect(&run, &[Kind::Fork]);
        assert_eq!(report.violations[0].id, 100);
    }
}

#[test]
fn broken_link_is_found_although_all_zones_agree() {
    let every = |run: &mut Run, change: fn(&mut Link)| {
        run.zones.iter_mut().for_each(|chain| change(&mut chain.links[50]));
        adopt(run);
    };
    let mut run = good();
    every(&mut run, |link| link.hash.0[0] ^= 1);
    assert_eq!(expect(&run, &[Kind::WrongHash]).violations[0].id, 51);
    let mut run = good();
    every(&mut run, |link| link.digest.0[0] ^= 1);
    assert_eq!(expect(&run, &[Kind::WrongDigest]).violations[0].id, 51);
    let mut run = good();
    run.zones.iter_mut().for_each(|chain| chain.links[50].written_at = Micros(i64::MIN));
    settle(&mut run);
    assert_eq!(expect(&run, &[Kind::TimeWentBack]).violations[0].id, 51);
}

#[test]
fn another_cluster_s_chain_has_wrong_digests() {
    let run = good();
    let other = "00000000-0000-4000-8000-000000000002".parse().unwrap();
    let report = check(&run.history, &run.zones, &Options::new(other));
    assert_eq!(report.totals.keys().collect::<Vec<_>>(), [&Kind::WrongDigest]);
}

#[test]
fn lagging_zone_has_not_converged_unless_allowed() {
    let mut run = good();
    run.zones[0].links.truncate(500);
    expect(&run, &[Kind::NotConverged]);
    let options = Options { converged: false, ..Options::new(cluster()) };
    assert_eq!(check(&run.history, &run.zones, &options).verdict(), Verdict::Sound);
}

#[test]
fn a_write_sent_after_a_larger_id_was_known_is_reordered() {
    // Two writes whose times are apart swap their ids: one pair among thousands.
    let mut run = good();
    let id = append(&mut run, Digest([4; 32]));
    let second = append(&mut run, Digest([5; 32]));
    let now = late(&run);
    let (early, later) = (acknowledged(&run, second), acknowledged(&run, id));
    let first = operation(&mut run, 0, now, now + 10, write(None, Digest([5; 32]), early));
    let other = operation(&mut run, 1, now + 11, now + 20, write(None, Digest([4; 32]), later));
    let report = expect(&run, &[Kind::Reordered]);
    assert_eq!(report.violations[0].operations, [first, other]);
    // The same with times that touch is concurrent.
    run.history.operations[other].started = now + 10;
    assert_eq!(judge(&run).verdict(), Verdict::Sound);
}

#[test]
fn write_of_unknown_outcome_must_keep_order() {
    let mut run = good();
    let id = append(&mut run, Digest([4; 32]));
    let now = late(&run);
    operation(&mut run, 0, now, now + 1, read(None, false, id));
    operation(&mut run, 1, now + 2, now + 9, write(None, Digest([4; 32]), OrderResult::Unknown));
    let before = judge(&good()).counts.unknown_written;
    let report = expect(&run, &[Kind::Reordered]);
    assert_eq!(report.counts.unknown_written, before + 1);
}

#[test]
fn linearizable_read_below_known_link_is_stale() {
    let mut run = good();
    let (now, id) = (late(&run), newest(&run));
    operation(&mut run, 0, now, now + 1, read(None, true, id - 1));
    expect(&run, &[Kind::StaleRead]);

    // The read goes back behind another reader, although no write of that id was acknowledged.
    let mut run = good();
    let id = append(&mut run, Digest([4; 32]));
    operation(&mut run, 0, 1, now, write(None, Digest([4; 32]), OrderResult::Unknown));
    operation(&mut run, 1, now, now + 1, read(None, false, id));
    let stale = operation(&mut run, 2, now + 2, now + 3, read(None, true, id - 1));
    expect(&run, &[Kind::StaleRead]);
    run.history.operations[stale].started = now + 1;
    assert_eq!(judge(&run).verdict(), Verdict::Sound);
}

#[test]
fn read_below_its_token_or_session_is_found() {
    let mut run = good();
    let now = late(&run);
    operation(&mut run, 0, now, now + 1, read(Some(9), false, 8));
    expect(&run, &[Kind::TokenIgnored]);

    let mut run = good();
    operation(&mut run, 0, now, now + 1, read(None, false, 9));
    operation(&mut run, 0, now + 2, now + 3, read(Some(3), false, 8));
    expect(&run, &[Kind::SessionWentBack]);
    // Without a token, or in another session, that is allowed.
    let mut run = good();
    operation(&mut run, 0, now, now + 1, read(None, false, 9));
    operation(&mut run, 0, now + 2, now + 3, read(None, false, 8));
    operation(&mut run, 1, now + 4, now + 5, read(Some(3), false, 8));
    assert_eq!(judge(&run).verdict(), Verdict::Sound);
}

#[test]
fn write_below_its_session_is_found_without_clock() {
    let mut run = good();
    let id = append(&mut run, Digest([4; 32]));
    append(&mut run, Digest([5; 32]));
    let what = write(None, Digest([5; 32]), OrderResult::Unknown);
    operation(&mut run, 9, 1, 2, what);
    let now = late(&run);
    operation(&mut run, 0, now, now + 1, read(None, false, id + 1));
    let outcome = acknowledged(&run, id);
    operation(&mut run, 0, now + 1, now + 2, write(None, Digest([4; 32]), outcome));
    expect(&run, &[Kind::SessionReordered]);
    // A retry of a write that was sent before is answered its old id, rightly.
    let what = write(None, Digest([4; 32]), OrderResult::Unknown);
    operation(&mut run, 1, now - 5, now - 4, what);
    assert_eq!(judge(&run).verdict(), Verdict::Sound);
}

#[test]
fn a_token_that_a_zone_refuses_as_foreign_is_a_violation() {
    let mut run = good();
    let now = late(&run);
    let what = What::Read { at_least: Some(9), linearizable: false, outcome: ReadOutcome::Fork };
    operation(&mut run, 0, now, now + 1, what);
    expect(&run, &[Kind::TokenRefused]);
}

#[test]
fn refused_write_is_absent_unless_another_attempt_succeeded() {
    let mut run = good();
    append(&mut run, Digest([4; 32]));
    let now = late(&run);
    operation(&mut run, 0, now, now + 1, write(None, Digest([4; 32]), OrderResult::Refused));
    expect(&run, &[Kind::RefusedWritten]);
    operation(&mut run, 1, now, now + 1, write(None, Digest([4; 32]), OrderResult::Unknown));
    assert_eq!(judge(&run).verdict(), Verdict::Sound);
}

#[test]
fn link_without_a_sender_is_a_phantom() {
    let mut run = good();
    let id = append(&mut run, Digest([4; 32]));
    assert_eq!(expect(&run, &[Kind::Phantom]).violations[0].id, id);
}

#[test]
fn links_without_payload_are_counted_against_the_unknown_writes() {
    let mut run = good();
    append(&mut run, Digest([4; 32]));
    run.zones.iter_mut().for_each(|chain| chain.links.last_mut().unwrap().payload = None);
    settle(&mut run);
    expect(&run, &[Kind::Phantom]);
    let now = late(&run);
    let what = What::Write { key: None, payload: None, outcome: OrderResult::Unknown };
    operation(&mut run, 0, now, now + 1, what);
    assert_eq!(judge(&run).verdict(), Verdict::Sound);
}

fn snapshot(run: &Run, started: u64, max_id: u64) -> Snapshot {
    Snapshot {
        zone: 1,
        replica: false,
        started,
        ended: started + 1,
        max_id,
        count: max_id,
        digest: (max_id > 0).then(|| link(run, max_id).digest),
    }
}

#[test]
fn a_snapshot_that_is_no_prefix_is_torn() {
    let changes: [fn(&mut Snapshot); 3] = [
        |shot| shot.count -= 1,
        |shot| shot.digest = Some(Digest([0; 32])),
        |shot| (shot.max_id, shot.count) = (1_000_000, 1_000_000),
    ];
    for change in changes {
        let mut run = good();
        let mut shot = snapshot(&run, late(&run), newest(&run));
        change(&mut shot);
        let (started, ended) = (shot.started - 1, shot.ended + 1);
        run.history.snapshots.push(shot);
        expect(&run, &[Kind::TornSnapshot]);
        run.history.resets.push(Reset { zone: 1, started, ended });
        assert_eq!(judge(&run).verdict(), Verdict::Sound, "it was just being filled");
    }
}

#[test]
fn database_behind_its_answers_is_stale_unless_replaced() {
    let mut run = good();
    let now = late(&run);
    let shot = snapshot(&run, now, newest(&run) / 2);
    run.history.snapshots.push(Snapshot { replica: true, ..shot.clone() });
    assert_eq!(judge(&run).verdict(), Verdict::Sound, "a replica may be behind");
    run.history.snapshots.push(shot);
    expect(&run, &[Kind::StaleSnapshot]);
    run.history.resets.push(Reset { zone: 1, started: now - 100, ended: now - 50 });
    assert_eq!(judge(&run).verdict(), Verdict::Sound, "the database was replaced");
    let later = snapshot(&run, now + 10, newest(&run) / 2 - 1);
    run.history.snapshots.push(later);
    expect(&run, &[Kind::StaleSnapshot]);
}

#[test]
fn a_run_that_saw_too_little_is_inconclusive() {
    let run = good();
    let mut options = Options::new(cluster());
    options.coverage.acknowledged_per_zone = 1;
    options.coverage.faults.insert("leader_kill".to_owned(), 1);
    let report = check(&run.history, &run.zones, &options);
    assert_eq!(report.verdict(), Verdict::Inconclusive);
    assert!(report.gaps[0].contains("leader_kill"), "{:?}", report.gaps);
    options.coverage.faults.clear();
    assert_eq!(check(&run.history, &run.zones, &options).verdict(), Verdict::Sound);
    options.coverage.acknowledged_per_zone = 1_000_000;
    assert_eq!(check(&run.history, &run.zones, &options).verdict(), Verdict::Inconclusive);
    assert_eq!(check(&run.history, &[], &options).gaps.len(), 1, "no zone at all");
}

#[test]
fn a_record_that_contradicts_itself_is_inconclusive() {
    let mut run = good();
    let now = late(&run);
    operation(&mut run, 0, now, now - 1, read(None, false, 1));
    assert_eq!(judge(&run).verdict(), Verdict::Inconclusive);
    let mut run = good();
    operation(&mut run, 0, now, now + 5, read(None, false, 1));
    operation(&mut run, 0, now + 4, now + 6, read(None, false, 1));
    assert_eq!(judge(&run).verdict(), Verdict::Inconclusive, "a session overlaps itself");
}

#[test]
fn report_shows_first_violation_with_its_context() {
    let mut run = good();
    let now = late(&run);
    operation(&mut run, 3, now, now + 1, read(Some(9), false, 8));
    run.zones[1].links.remove(41);
    let text = judge(&run).render(&run.history);
    let gap = text.find("not_dense (I1): zone 1 has id 43 where 42 belongs").unwrap();
    let token = text.find("token_ignored (I6): a read at least 9 showed 8").unwrap();
    assert!(gap < token, "{text}");
    let line =
        format!("{now}..{} ns, client 1000 session 3, zone 0: read at least 9 -> 8", now + 1);
    assert!(text[token..].contains(&line), "{text}");
    assert!(text[gap..token].contains("-> id 42 digest"), "{text}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn good_history_of_any_seed_is_sound(
        seed in any::<u64>(),
        operations in 0_usize..2_000,
        clients in 1_u32..40,
        zones in 1_u16..5,
    ) {
        let run = Settings { operations, clients, zones }.run(seed);
        let report = judge(&run);
        prop_assert_eq!(report.verdict(), Verdict::Sound, "{}", report.render(&run.history));
        prop_assert_eq!(judge(&run), report, "the same history gives the same report");
    }
}

#[test]
fn the_readme_names_every_kind_beside_its_invariant() {
    let page = include_str!("../README.md");
    for kind in Kind::ALL {
        let row = page.lines().find(|line| line.contains(&format!("`{kind}`")));
        assert!(row.is_some_and(|row| row.contains(kind.invariant())), "{kind} in the README");
    }
}
