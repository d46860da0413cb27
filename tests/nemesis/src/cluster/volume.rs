//! A disk of its own for a coordinator or a database: an ext4 image, mounted by a loop device.
//!
//! Without a sandbox it is a directory, and what needs a disk refuses.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use pghc_dev::process::signal;

use crate::ext4;
use crate::sandbox::tool;

/// Files that are made at most to fill a volume.
const FILL_PIECES_MAX: u32 = 64;

/// How often a disk that others work in is filled again.
const FILL_ROUNDS_MAX: usize = 20;

/// Longest time until nothing holds the file system any more.
const BUSY_MAX: Duration = Duration::from_secs(60);

/// A disk.
#[derive(Debug)]
pub struct Volume {
    image: Option<PathBuf>,
    mount: PathBuf,
}

impl Volume {
    /// Makes a disk of `bytes` (a sparse file) and mounts it.
    ///
    /// # Errors
    /// When a tool fails.
    pub fn create(work: &Path, name: &str, bytes: u64, is_image: bool) -> anyhow::Result<Self> {
        let mount = work.join("mnt").join(name);
        std::fs::create_dir_all(&mount)?;
        if !is_image {
            return Ok(Self { image: None, mount });
        }
        let image = work.join(format!("{name}.img"));
        std::fs::File::create(&image)?.set_len(bytes)?;
        let path = image.to_str().context("the path is text")?;
        tool(&["mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=1,nodiscard", path])?;
        let volume = Self { image: Some(image), mount };
        volume.mount()?;
        Ok(volume)
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.mount
    }

    fn mount(&self) -> anyhow::Result<()> {
        let image = self.image.as_ref().context("no image without a sandbox")?;
        let (image, mount) = (image.to_string_lossy(), self.mount.to_string_lossy());
        tool(&["mount", "-o", "loop,nodiscard", &image, &mount]).map(drop)
    }

    /// Flushes all written bytes to the disk: the setup of a cluster is no part of the test.
    ///
    /// # Errors
    /// When a tool fails.
    pub fn sync(&self) -> anyhow::Result<()> {
        tool(&["sync", "-f", &self.mount.to_string_lossy()]).map(drop)
    }

    /// The power goes: what was not synced is lost. Its processes must be killed before
    /// [`Volume::power_on`]. Answers the evidence: what a write says now.
    ///
    /// # Errors
    /// When it did not happen.
    pub fn power_cut(&self) -> anyhow::Result<String> {
        ext4::power_cut(&self.mount).context("ext4 shutdown")?;
        match std::fs::File::create(self.mount.join("after-the-cut")) {
            Ok(_) => bail!("{} takes files after its power was cut", self.mount.display()),
            Err(error) => Ok(format!("a write after the cut says {error}")),
        }
    }

    /// Kills all processes that still work in it, and mounts it again.
    ///
    /// # Errors
    /// When it stays busy, or does not mount.
    pub async fn power_on(&self) -> anyhow::Result<()> {
        let deadline = tokio::time::Instant::now() + BUSY_MAX;
        let mount = self.mount.to_string_lossy();
        while let Err(error) = tool(&["umount", &mount]) {
            ensure!(tokio::time::Instant::now() < deadline, "{error:#}");
            kill_workers(&self.mount);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        while let Err(error) = self.mount() {
            ensure!(tokio::time::Instant::now() < deadline, "{error:#}");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        Ok(())
    }

    /// Fills it up to the last block. Answers the evidence.
    ///
    /// # Errors
    /// When there is still room.
    pub fn fill(&self) -> anyhow::Result<String> {
        // Other processes use the disk meanwhile and may free space, a whole log segment at a time:
        // a piece that fits is not the last, and a full disk may have space again.
        for round in 0..FILL_ROUNDS_MAX {
            self.take_room(round)?;
            let probe = self.mount.join("ballast-probe");
            let written = std::fs::File::create(&probe)
                .and_then(|mut file| file.write_all(&[0; 65_536]).and_then(|()| file.sync_all()));
            let _ = std::fs::remove_file(probe);
            if let Err(error) = written {
                return Ok(format!("a write to the full disk says {error}"));
            }
        }
        bail!("{} still has room", self.mount.display())
    }

    /// Takes what room there is, or nearly.
    fn take_room(&self, round: usize) -> anyhow::Result<()> {
        let mut share = 1;
        for piece in 0..FILL_PIECES_MAX {
            let stat = nix::sys::statvfs::statvfs(&self.mount)?;
            let size = stat.blocks_free() * stat.fragment_size() / share;
            if size < 4096 {
                break;
            }
            let path = format!("{}-{round}-{piece}", self.ballast().display());
            if tool(&["fallocate", "-l", &size.to_string(), &path]).is_err() {
                // The writer may have used its whole share.
                share *= 2;
            }
        }
        Ok(())
    }

    /// Gives the room back.
    ///
    /// # Errors
    /// When the files cannot be removed.
    pub fn empty(&self) -> anyhow::Result<()> {
        for entry in std::fs::read_dir(&self.mount)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with("ballast") {
                std::fs::remove_file(entry.path())?;
            }
        }
        // Or the next power cut would fill it again.
        self.sync()
    }

    fn ballast(&self) -> PathBuf {
        self.mount.join("ballast")
    }
}

/// Kills every process that works in `folder`. All of ours have their data as working directory.
fn kill_workers(folder: &Path) {
    for (pid, directory) in working_directories() {
        if directory.starts_with(folder) {
            signal(pid, nix::sys::signal::Signal::SIGKILL);
        }
    }
}

fn working_directories() -> Vec<(u32, PathBuf)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse() else { continue };
        if let Ok(directory) = std::fs::read_link(entry.path().join("cwd")) {
            found.push((pid, directory));
        }
    }
    found
}
