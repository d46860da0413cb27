//! The power cut of one file system: ext4 stops at once and forgets what it had not flushed.
//!
//! The only `unsafe` of the workspace: the ioctl has no safe wrapper. Its only argument is a
//! pointer to a number that outlives the call.

#![expect(unsafe_code, reason = "an ioctl without a safe wrapper")]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::path::Path;

/// Neither data nor journal are flushed: what was not synced is lost, as when the power goes.
const NO_LOG_FLUSH: u32 = 2;

mod raw {
    nix::ioctl_read!(ext4_shutdown, b'X', 125, u32);
}

/// Cuts the power of the ext4 file system mounted at `mount`. From then on every access fails until
/// it is unmounted and mounted again, which replays its journal.
///
/// # Errors
/// When it is not ext4, or we are not root.
pub fn power_cut(mount: &Path) -> io::Result<()> {
    let root = File::open(mount)?;
    let mut flags = NO_LOG_FLUSH;
    // SAFETY: the kernel reads one u32 through the pointer during the call; `flags` outlives it and
    // the descriptor is open.
    unsafe { raw::ext4_shutdown(root.as_raw_fd(), &raw mut flags) }?;
    Ok(())
}
