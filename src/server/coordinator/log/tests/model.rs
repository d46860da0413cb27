//! Model of a log's content, and random calls against both.

use bytes::Bytes;
use proptest::prelude::{Strategy, any, prop_oneof};

use super::mem_disk::{Event, MemDisk};
use super::waiter;
use crate::coordinator::log::{Log, Record};

/// One random call. Positions are in sixteenths of the log's length.
#[derive(Debug, Clone)]
pub(super) enum Call {
    Append {
        records: u8,
        bytes: u16,
    },
    Truncate {
        sixteenths: u8,
    },
    Purge {
        sixteenths: u8,
    },
    Vote,
    Committed,
    /// Waits until every call so far is durable.
    Await,
    Reopen,
}

pub(super) fn calls(most: usize) -> impl Strategy<Value = Vec<Call>> {
    let call = prop_oneof![
        8 => (1_u8..5, 0_u16..700).prop_map(|(records, bytes)| Call::Append { records, bytes }),
        1 => (1_u8..3, 3000_u16..9000).prop_map(|(records, bytes)| Call::Append { records, bytes }),
        2 => (0_u8..18).prop_map(|sixteenths| Call::Truncate { sixteenths }),
        2 => (0_u8..20).prop_map(|sixteenths| Call::Purge { sixteenths }),
        3 => any::<()>().prop_map(|()| Call::Vote),
        2 => any::<()>().prop_map(|()| Call::Committed),
        6 => any::<()>().prop_map(|()| Call::Await),
        1 => any::<()>().prop_map(|()| Call::Reopen),
    ];
    proptest::collection::vec(call, 1..most)
}

/// Expected content after a step; one frame records one step.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Model {
    pub(super) first: u64,
    pub(super) records: Vec<Record>,
    pub(super) purged: Option<(u64, Bytes)>,
    pub(super) vote: Option<Bytes>,
}

impl Model {
    pub(super) fn next(&self) -> u64 {
        self.first + self.records.len() as u64
    }

    fn at(&self, sixteenths: u8) -> u64 {
        self.first + self.records.len() as u64 * u64::from(sixteenths) / 16
    }

    /// Reads the content of `log`.
    pub(super) fn of(log: &Log) -> Self {
        let state = log.state();
        let first =
            state.first.or(state.purged.as_ref().map(|(index, _)| index + 1)).unwrap_or_default();
        let records = log.read(first..u64::MAX, usize::MAX).unwrap();
        assert_eq!(state.last, records.last().map(|record| record.index));
        Self { first, records, purged: state.purged, vote: state.vote }
    }
}

/// A log, its disk, and the history of calls.
pub(super) struct Run {
    pub(super) disk: MemDisk,
    log: Option<Log>,
    /// Expected content after each step; the first is the empty log.
    pub(super) history: Vec<Model>,
    /// Commit indexes with the number of steps before them.
    pub(super) committed: Vec<(Bytes, usize)>,
    counter: u64,
}

impl Run {
    pub(super) fn new() -> Self {
        let disk = MemDisk::default();
        let log = Some(super::open(&disk));
        Self { disk, log, history: vec![Model::default()], committed: Vec::new(), counter: 0 }
    }

    pub(super) fn log(&self) -> &Log {
        self.log.as_ref().expect("it is open between calls")
    }

    fn note(&mut self, bytes: usize) -> Bytes {
        self.counter += 1;
        self.counter.to_be_bytes().repeat(bytes / 8 + 1)[..bytes.max(8)].to_vec().into()
    }

    fn step(&mut self, change: impl FnOnce(&mut Model)) {
        let mut model = self.history.last().expect("it begins with one").clone();
        change(&mut model);
        self.history.push(model);
    }

    fn acknowledge(&self) -> crate::coordinator::log::Done {
        let (disk, steps) = (self.disk.clone(), self.history.len() - 1);
        Box::new(move |result| {
            result.expect("the disk does not fail");
            disk.note(Event::Acknowledged { steps });
        })
    }

    pub(super) fn call(&mut self, call: &Call) {
        let now = self.history.last().expect("it begins with one").clone();
        match *call {
            Call::Append { records, bytes } => {
                let records: Vec<_> = (now.next()..)
                    .take(records.into())
                    .map(|index| Record { index, body: self.note(bytes.into()) })
                    .collect();
                for record in records.clone() {
                    self.step(|model| model.records.push(record));
                }
                self.log().append(records, self.acknowledge()).unwrap();
            }
            Call::Truncate { sixteenths } => {
                let next = now.at(sixteenths).max(now.first);
                self.log().truncate_after(next.checked_sub(1)).unwrap();
                if next < now.next() {
                    self.step(|model| model.records.retain(|record| record.index < next));
                }
            }
            Call::Purge { sixteenths } => {
                let (index, mark) = (now.at(sixteenths), self.note(20));
                self.log().purge_to(index, mark.clone()).unwrap();
                self.step(|model| {
                    model.records.retain(|record| record.index > index);
                    (model.first, model.purged) = (index + 1, Some((index, mark)));
                });
            }
            Call::Vote => {
                let vote = self.note(9);
                self.step(|model| model.vote = Some(vote.clone()));
                self.log().set_vote(vote, self.acknowledge()).unwrap();
            }
            Call::Committed => {
                let committed = self.note(8);
                self.committed.push((committed.clone(), self.history.len() - 1));
                self.log().set_committed(committed).unwrap();
            }
            Call::Await => self.wait(),
            Call::Reopen => self.reopen(),
        }
        self.check();
    }

    pub(super) fn wait(&self) {
        let (done, wait) = waiter();
        self.log().append(Vec::new(), done).unwrap();
        wait().unwrap();
    }

    pub(super) fn reopen(&mut self) {
        self.close();
        self.log = Some(super::open(&self.disk));
    }

    pub(super) fn close(&mut self) {
        self.log.take().expect("it is open between calls").close().unwrap();
        self.disk.note(Event::Acknowledged { steps: self.history.len() - 1 });
    }

    fn check(&self) {
        assert_eq!(Some(&Model::of(self.log())), self.history.last());
        let committed = self.committed.last().map(|(committed, _)| committed.clone());
        assert_eq!(self.log().state().committed, committed);
    }
}

proptest::proptest! {
    #![proptest_config(super::cases(96))]

    #[test]
    fn log_matches_the_model_for_random_calls(calls in calls(60)) {
        let mut run = Run::new();
        calls.iter().for_each(|call| run.call(call));
        run.reopen();
        run.check();
    }

    #[test]
    fn read_ends_before_its_byte_limit(
        calls in calls(30), from in 0_u64..40, length in 0_u64..20, bytes_max in 0_usize..4000,
    ) {
        let mut run = Run::new();
        calls.iter().for_each(|call| run.call(call));
        let model = run.history.last().unwrap().clone();
        let from = model.first.saturating_sub(2) + from;
        let mut bytes = 0;
        let expected: Vec<_> = model
            .records
            .iter()
            .skip_while(|record| record.index < from)
            .take_while(|record| {
                bytes += record.body.len();
                let is_first = record.index == from;
                record.index < from + length && (bytes <= bytes_max || is_first)
            })
            .cloned()
            .collect();
        let expected = if from < model.first { Vec::new() } else { expected };
        assert_eq!(run.log().read(from..from + length, bytes_max).unwrap(), expected);
    }
}
