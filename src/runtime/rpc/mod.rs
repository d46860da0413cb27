//! gRPC contract between pghc's processes, generated from `api/proto/pghc.proto`, with channels,
//! the cluster-id check and limits.

mod channel;
pub mod doors;

pub use channel::{
    BATCH_MESSAGE_BYTES_MAX, Caller, Carrier, CarryError, ClusterCheck, Dial, MESSAGE_BYTES_MAX,
    Tcp, connect, server,
};

/// Metadata key of a rejection: nothing of the call was handed to a leader.
pub const NOT_PROPOSED: &str = "pghc-not-taken";

/// Whether the address refused the connection: then nothing of the call was sent.
#[must_use]
pub fn is_connection_refused(status: &tonic::Status) -> bool {
    let mut source = std::error::Error::source(status);
    while let Some(cause) = source {
        if let Some(io) = cause.downcast_ref::<std::io::Error>()
            && io.kind() == std::io::ErrorKind::ConnectionRefused
        {
            return true;
        }
        source = cause.source();
    }
    false
}

/// Generated messages, clients and servers.
#[allow(
    missing_docs,
    clippy::all,
    clippy::pedantic,
    clippy::allow_attributes_without_reason,
    unreachable_pub,
    rust_2018_idioms,
    reason = "generated code; the documentation stands in the proto file"
)]
pub mod v1 {
    tonic::include_proto!("pghc.v1");
}
