//! File descriptors: the limit of the process, and the part of it that connections may take.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Fewest connections with which a server is worth starting.
const FEWEST: usize = 16;

/// The process may open too few files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "{limit} open files are allowed, {own} are needed for the process itself and {FEWEST} at least for \
     connections; allow {} (ulimit -n, LimitNOFILE= of the unit)",
    own + FEWEST
)]
pub struct TooFew {
    limit: usize,
    own: usize,
}

/// Raises the limit of open files to what the system allows this process.
pub fn raise_limit() {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return };
    if soft < hard
        && let Err(error) = setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
    {
        tracing::warn!(soft, hard, %error, "limit of open files not raised");
    }
}

/// Of `wanted` descriptors for files, the number to reserve: at most three quarters of the limit,
/// so that some remain for connections.
pub fn kept_for_files(wanted: usize) -> usize {
    wanted.min(limit() / 4 * 3)
}

fn limit() -> usize {
    let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(u64::MAX, |(soft, _)| soft);
    usize::try_from(limit).unwrap_or(usize::MAX)
}

/// Connections that may be open at a time, `most` at most, when the process needs `own` descriptors
/// for itself.
///
/// # Errors
/// [`TooFew`] when that leaves fewer than sixteen.
pub fn room_for(own: usize, most: usize) -> Result<usize, TooFew> {
    within(limit(), own, most)
}

fn within(limit: usize, own: usize, most: usize) -> Result<usize, TooFew> {
    match limit.saturating_sub(own) {
        left if left < FEWEST => Err(TooFew { limit, own }),
        left => Ok(left.min(most)),
    }
}

#[cfg(test)]
mod tests {
    use super::within;

    #[test]
    fn connections_get_descriptors_left_by_process() {
        assert_eq!(within(1024, 100, 10_000), Ok(924));
        assert_eq!(within(1 << 20, 100, 10_000), Ok(10_000));
        let refused = within(128, 120, 10_000).expect_err("too few").to_string();
        assert!(refused.contains("128 open files") && refused.contains("allow 136"), "{refused}");
    }
}
