//! Ctrl-C and SIGTERM while `geo-load` is at work.

use anyhow::bail;
use pghc_runtime::output;
use tokio_util::sync::CancellationToken;

/// Ends `work` early on Ctrl-C or SIGTERM. The first signal cancels `stop`, upon which work ends
/// and reports its partial result; the second one, or the first without `stop`, drops the work.
pub(super) async fn interruptible<T>(
    stop: Option<&CancellationToken>,
    work: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<T> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut interrupt, mut terminate) =
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let mut work = std::pin::pin!(work);
    let mut stop = stop;
    loop {
        let how = tokio::select! {
            outcome = &mut work => return outcome,
            _ = interrupt.recv() => "interrupted",
            _ = terminate.recv() => "terminated",
        };
        let Some(stop) = stop.take() else { bail!("{how}; nothing is reported") };
        stop.cancel();
        output::complain(&format!(
            "geo-load: {how}: what is under way ends, then what there is is reported; once more gives up"
        ));
    }
}
