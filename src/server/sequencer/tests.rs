//! Tests of the whole sequencer.

use bytes::Bytes;
use pghc_api::chain::Head;
use pghc_api::id::ClusterId;
use pghc_api::time::Micros;
use proptest::prelude::*;

use super::{
    Batch, Entry, EntryError, OrderResult, Registration, Sequenced, Sequencer, SnapshotError,
    Write, ZoneAct, ZoneChange, extend,
};

fn cluster() -> ClusterId {
    "00000000-0000-4000-8000-000000000001".parse().expect("a UUID")
}

fn write(key: Option<&str>, payload: &str) -> Write {
    Write { key: key.map(|key| key.to_owned().into()), payload: Some(payload.to_owned().into()) }
}

fn entry(session: u8, sequence: u64, at: i64, writes: Vec<Write>) -> Bytes {
    let node = "eu-1".parse().expect("a plain name");
    let batch = Batch { session: [session; 16], sequence, node, writes };
    Entry { proposed_at: Micros(at), batch: batch.encode() }.encode()
}

fn advance(sequencer: &mut Sequencer, index: u64, entry: Bytes) -> Sequenced {
    sequencer.advance(index, entry).expect("a good entry").expect("a batch")
}

fn register(act: ZoneAct, zone: &str) -> Bytes {
    ZoneChange { act, zone: zone.parse().expect("a plain name") }.encode()
}

fn ids(sequenced: &Sequenced) -> Vec<(char, u64)> {
    let id = |outcome: &OrderResult| match outcome {
        OrderResult::Ordered(head) => ('o', head.id.get()),
        OrderResult::Repeated(id) => ('r', id.get()),
        OrderResult::KeyReused(id) => ('x', id.get()),
    };
    sequenced.outcomes.iter().map(id).collect()
}

#[test]
fn ids_are_dense_despite_repeats() {
    let mut sequencer = Sequencer::new(cluster());
    let mut advance = |index, bytes| advance(&mut sequencer, index, bytes);
    let first = advance(5, entry(1, 1, 10, vec![write(Some("a"), "1"), write(None, "2")]));
    assert_eq!(ids(&first), [('o', 1), ('o', 2)]);
    let writes = vec![write(Some("a"), "1"), write(Some("b"), "3"), write(Some("a"), "9")];
    let second = advance(6, entry(2, 1, 20, writes));
    assert_eq!(ids(&second), [('r', 1), ('o', 3), ('x', 1)]);
    assert_eq!(second.skipped_positions, [0, 2]);
    assert_eq!(second.first_id.map(u64::from), Some(3));
    let resent = advance(9, entry(2, 1, 30, second.batch.writes.clone()));
    assert_eq!(ids(&resent), [('r', 1), ('r', 3), ('x', 1)]);
    assert_eq!((resent.first_id, resent.skipped_positions.len()), (None, 3));
    assert_eq!(resent.head, second.head);
}

#[test]
fn repeated_key_in_one_batch_is_ordered_once() {
    let mut sequencer = Sequencer::new(cluster());
    let twice = vec![write(Some("a"), "1"), write(Some("a"), "1")];
    let done = advance(&mut sequencer, 1, entry(1, 1, 0, twice));
    assert_eq!(ids(&done), [('o', 1), ('r', 1)]);
}

#[test]
fn commit_time_is_monotonic_despite_the_leaders_clock() {
    let mut sequencer = Sequencer::new(cluster());
    let times = [50, 40, 60].into_iter().zip(1_u64..).map(|(at, index)| {
        advance(&mut sequencer, index, entry(1, index, at, vec![write(None, "1")]))
            .head
            .expect("a link was made")
            .written_at
            .0
    });
    assert_eq!(times.collect::<Vec<_>>(), [50, 50, 60]);
}

#[test]
fn entry_of_a_newer_version_is_an_error() {
    let mut sequencer = Sequencer::new(cluster());
    let mut bytes = entry(1, 1, 0, vec![write(None, "1")]).to_vec();
    bytes[0] = 3;
    let before = sequencer.snapshot();
    let error = sequencer.advance(1, bytes.into()).expect_err("format 3");
    assert_eq!(error, EntryError::Unknown { what: "entry format", got: 3 });
    let mut bytes = register(ZoneAct::Add, "eu").to_vec();
    bytes[3] = 4;
    let error = sequencer.advance(1, bytes.into()).expect_err("act 4");
    assert_eq!(error, EntryError::Unknown { what: "zone act", got: 4 });
    assert_eq!(sequencer.snapshot(), before);
}

#[test]
fn foreign_or_damaged_snapshot_is_refused() {
    let mut sequencer = Sequencer::new(cluster());
    sequencer.advance(1, entry(1, 1, 0, vec![write(Some("k"), "1")])).expect("a good entry");
    let bytes = sequencer.snapshot();
    let other: ClusterId = "00000000-0000-4000-8000-000000000002".parse().expect("a UUID");
    let error = Sequencer::restore(&other, &bytes).expect_err("another cluster");
    assert_eq!(error, SnapshotError::Foreign(cluster()));
    for at in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[at / 8] ^= 1 << (at % 8);
        assert!(Sequencer::restore(&cluster(), &flipped).is_err(), "bit {at}");
    }
}

/// An unprintable commit time made a snapshot that could not be restored; a time beyond
/// PostgreSQL's range would have stopped every zone.
#[test]
fn impossible_leader_clock_is_clamped() {
    for (clock, written_at) in [(i64::MAX, Micros::MAX), (i64::MIN, Micros::MIN)] {
        let mut sequencer = Sequencer::new(cluster());
        let first = entry(1, 1, clock, vec![write(None, "1")]);
        sequencer.advance(1, first).expect("a good entry");
        assert_eq!(sequencer.head().map(|head| head.written_at), Some(written_at));
        let restored = Sequencer::restore(&cluster(), &sequencer.snapshot()).expect("restored");
        assert_eq!(restored.head(), sequencer.head());
    }
}

fn any_writes() -> impl Strategy<Value = Vec<Write>> {
    let key = proptest::option::of(0_u8..12);
    let one = (key, 0_u8..3).prop_map(|(key, payload)| {
        write(key.map(|key| key.to_string()).as_deref(), &payload.to_string())
    });
    proptest::collection::vec(one, 1..60)
}

/// Sequences `writes` in batches of the given sizes, repeated as needed.
fn in_batches(writes: &[Write], sizes: &[usize]) -> (Vec<OrderResult>, Sequencer, Vec<Bytes>) {
    let mut sequencer = Sequencer::new(cluster());
    let (mut outcomes, mut log) = (Vec::new(), Vec::new());
    let (mut rest, mut sizes) = (writes, sizes.iter().cycle());
    while !rest.is_empty() {
        let size = rest.len().min(*sizes.next().expect("a cycle"));
        let index = log.len() as u64;
        log.push(entry(1, index + 1, 7, rest[..size].to_vec()));
        let done = advance(&mut sequencer, index, log[log.len() - 1].clone());
        outcomes.extend(done.outcomes);
        rest = &rest[size..];
    }
    (outcomes, sequencer, log)
}

#[test]
fn zone_change_takes_no_id() {
    let mut sequencer = Sequencer::new(cluster());
    advance(&mut sequencer, 1, entry(1, 1, 0, vec![write(None, "1")]));
    for (index, act) in [(2, ZoneAct::Register), (3, ZoneAct::Remove), (4, ZoneAct::Register)] {
        let change = register(act, "us");
        assert_eq!(sequencer.advance(index, change.clone()), Ok(None));
        assert_eq!(extend(&cluster(), sequencer.head(), change, &[], u64::MAX), Ok(None));
    }
    let removed = sequencer.zones().that_are(Registration::Removed);
    assert_eq!(removed.map(|zone| zone.as_str()).collect::<Vec<_>>(), ["us"]);
    let after = advance(&mut sequencer, 5, entry(1, 2, 0, vec![write(None, "1")]));
    assert_eq!(ids(&after), [('o', 2)]);
}

#[test]
fn restored_snapshot_keeps_every_digest() {
    let mut sequencer = Sequencer::new(cluster());
    let heads: Vec<Head> = (1..=300_u64)
        .filter_map(|at| advance(&mut sequencer, at, entry(1, at, 0, vec![write(None, "1")])).head)
        .collect();
    sequencer.forget_below(301);
    let restored = Sequencer::restore(&cluster(), &sequencer.snapshot()).expect("restored");
    for head in heads {
        assert_eq!(restored.marks().at(head.id.get()), Some(head.digest));
    }
    assert_eq!(restored.snapshot(), sequencer.snapshot());
}

#[test]
fn positions_are_at_most_a_mebibyte_apart() {
    let mut sequencer = Sequencer::new(cluster());
    let large = format!("\"{}\"", "x".repeat(300 << 10));
    for index in 1..=12 {
        advance(&mut sequencer, index, entry(1, index, 0, vec![write(None, &large)]));
    }
    let at = |after_id| sequencer.positions().before(after_id).expect("remembered").index;
    assert_eq!([at(0), at(3), at(4), at(8)], [1, 1, 5, 9]);
    let positions = sequencer.positions();
    assert_eq!(positions.first_from(2).expect("one").index, 5);
    assert_eq!(positions.last_upto(8).expect("one").index, 5);
    assert!(positions.first_from(10).is_none() && positions.last_upto(0).is_none());
}

proptest! {
    #[test]
    fn chain_is_independent_of_the_batching(
        writes in any_writes(), sizes in proptest::collection::vec(1_usize..9, 1..6))
    {
        let (one_by_one, alone, _) = in_batches(&writes, &[1]);
        let (batched, together, _) = in_batches(&writes, &sizes);
        prop_assert_eq!(&one_by_one, &batched);
        prop_assert_eq!(alone.head(), together.head());
        let new: Vec<u64> = batched.iter().filter_map(|outcome| match outcome {
            OrderResult::Ordered(head) => Some(head.id.get()),
            _ => None,
        }).collect();
        prop_assert_eq!(new.clone(), (1..=new.len() as u64).collect::<Vec<_>>());
    }

    #[test]
    fn restored_snapshot_continues_like_the_original(
        before in any_writes(), after in any_writes())
    {
        let (_, mut original, _) = in_batches(&before, &[3]);
        original.advance(900, register(ZoneAct::Register, "eu")).expect("a good entry");
        let mut restored = Sequencer::restore(&cluster(), &original.snapshot()).expect("restored");
        for index in 1_000..1_004_u64 {
            let bytes = entry(2, index / 2, 9, after.clone());
            let expected = advance(&mut original, index, bytes.clone());
            prop_assert_eq!(advance(&mut restored, index, bytes), expected);
        }
        prop_assert_eq!(restored.snapshot(), original.snapshot());
    }

    #[test]
    fn links_above_any_id_recompute_from_the_log(
        writes in any_writes(), after_id in 0_u64..20)
    {
        let (_, sequencer, log) = in_batches(&writes, &[2, 1]);
        let start = sequencer.positions().before(after_id).expect("nothing was purged");
        prop_assert!(start.head.map_or(0, |head: Head| head.id.get()) <= after_id);
        let mut head = start.head;
        for index in start.index..log.len() as u64 {
            let without = sequencer.positions().skipped_positions(index).expect("nothing was purged");
            let bytes = log[usize::try_from(index).expect("small")].clone();
            let extended = extend(&cluster(), head, bytes, without, u64::MAX);
            head = extended.expect("a good entry").expect("a batch").1;
        }
        prop_assert_eq!(head, sequencer.head());
    }
}
