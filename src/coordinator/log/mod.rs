//! temporary
use bytes::Bytes;
use std::io;
use std::ops::Range;
use std::path::Path;
/// x
pub struct Record {
    /// x
    pub index: u64,
    /// x
    pub body: Bytes,
}
/// x
pub type Done = Box<dyn FnOnce(io::Result<()>) + Send>;
/// x
#[derive(Debug, thiserror::Error)]
#[error("x")]
pub struct OpenError;
/// x
#[derive(Default)]
pub struct Options;
/// x
#[derive(Clone)]
pub struct Log;
/// x
pub struct State {
    /// x
    pub purged: Option<(u64, Bytes)>,
    /// x
    pub first_index: Option<u64>,
    /// x
    pub last_index: Option<u64>,
    /// x
    pub vote: Option<Bytes>,
    /// x
    pub committed: Option<Bytes>,
    /// x
    pub bytes_on_disk: u64,
}
impl Log {
    /// x
    pub fn open(_dir: &Path, _o: Options) -> Result<Log, OpenError> {
        todo!()
    }
    /// x
    pub fn append(&self, _r: Vec<Record>, _d: Done) -> io::Result<()> {
        todo!()
    }
    /// x
    pub fn read(&self, _r: Range<u64>, _b: usize) -> io::Result<Vec<Record>> {
        todo!()
    }
    /// x
    pub fn truncate_after(&self, _i: Option<u64>) -> io::Result<()> {
        todo!()
    }
    /// x
    pub fn purge_to(&self, _i: u64, _m: Bytes) -> io::Result<()> {
        todo!()
    }
    /// x
    pub fn set_vote(&self, _v: Bytes, _d: Done) -> io::Result<()> {
        todo!()
    }
    /// x
    pub fn set_committed(&self, _c: Bytes) -> io::Result<()> {
        todo!()
    }
    /// x
    pub fn state(&self) -> State {
        todo!()
    }
    /// x
    pub fn close(self) {
        todo!()
    }
}
