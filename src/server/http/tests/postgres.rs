//! The payload rules against a real PostgreSQL: what we accept it must store, since a committed
//! write that one zone's PostgreSQL refused would stop that zone for good.

use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User, geteuid};
use pghc_api::error::ErrorCode;
use pghc_api::payload;
use pghc_runtime::task::Tasks;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio_postgres::NoTls;

use super::PATIENCE;

/// A PostgreSQL of its own in a directory of its own, reached by its socket; gone when dropped.
struct Throwaway {
    directory: tempfile::TempDir,
    server: Child,
}

impl Throwaway {
    fn start() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let data = directory.path().join("data");
        // PostgreSQL refuses to run as root.
        let user = geteuid().is_root().then(|| {
            let user =
                User::from_name("postgres").ok().flatten().expect("there is a user postgres");
            let (uid, gid) = (user.uid.as_raw(), user.gid.as_raw());
            chown(directory.path(), Some(uid), Some(gid)).expect("we are root");
            (uid, gid)
        });
        let command = |program: &str| {
            let mut command = Command::new(binaries().join(program));
            command.current_dir(directory.path()).stdout(Stdio::null()).stderr(Stdio::null());
            if let Some((uid, gid)) = user {
                command.uid(uid).gid(gid);
            }
            command
        };
        let mut initdb = command("initdb");
        initdb.args(["-A", "trust", "-U", "pghc", "-E", "UTF8", "--locale=C", "-N", "-D"]);
        assert!(initdb.arg(&data).status().expect("initdb starts").success());
        let mut server = command("postgres");
        server.args(["-c", "listen_addresses=", "-c", "fsync=off", "-k"]).arg(directory.path());
        let server = server.arg("-D").arg(&data).spawn().expect("postgres starts");
        Self { directory, server }
    }

    async fn connect(&self, tasks: &Tasks) -> tokio_postgres::Client {
        let mut config = tokio_postgres::Config::new();
        config.host_path(self.directory.path()).user("pghc").dbname("postgres");
        let connect = async {
            loop {
                match config.connect(NoTls).await {
                    Ok(connected) => break connected,
                    Err(_) => tokio::time::sleep(std::time::Duration::from_millis(20)).await,
                }
            }
        };
        let (client, connection) =
            tokio::time::timeout(PATIENCE, connect).await.expect("PostgreSQL starts");
        tasks.spawn("connection", async move { connection.await.expect("it stays up") });
        client
    }
}

impl Drop for Throwaway {
    fn drop(&mut self) {
        let pid = i32::try_from(self.server.id()).expect("a process id");
        let _ = kill(Pid::from_raw(pid), Signal::SIGQUIT);
        let _ = self.server.wait();
    }
}

/// Where PostgreSQL's programs are: in `PATH`, or where Debian puts the newest.
fn binaries() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let has_initdb = |directory: &PathBuf| directory.join("initdb").exists();
    if let Some(found) = std::env::split_paths(&path).find(has_initdb) {
        return found;
    }
    let installed = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut found: Vec<_> = installed.map(|entry| entry.path().join("bin")).collect();
    found.sort();
    found.into_iter().rev().find(|path| has_initdb(path)).unwrap_or_else(|| Path::new("").into())
}

/// Writes texts that are JSON, nearly JSON, or JSON that PostgreSQL cannot hold.
struct Writer {
    random: StdRng,
    text: String,
}

impl Writer {
    fn one_of<'a>(&mut self, texts: &[&'a str]) -> &'a str {
        texts[self.random.random_range(0..texts.len())]
    }

    fn value(&mut self, depth: usize) {
        match self.random.random_range(0..if depth == 0 { 8 } else { 12 }) {
            0..3 => self.number(),
            3..6 => self.string(),
            6..8 => {
                let word = self.one_of(&["true", "false", "null", "nul", "NaN", " 1 ", "\t[]\n"]);
                self.text.push_str(word);
            }
            8..10 => {
                self.text.push('[');
                for index in 0..self.random.random_range(0..4) {
                    self.text.push_str(if index > 0 { "," } else { "" });
                    self.value(depth - 1);
                }
                self.text.push(']');
            }
            _ => {
                self.text.push('{');
                for index in 0..self.random.random_range(0..4) {
                    self.text.push_str(if index > 0 { " , " } else { "" });
                    self.string();
                    self.text.push(':');
                    self.value(depth - 1);
                }
                self.text.push('}');
            }
        }
    }

    fn number(&mut self) {
        let digits = |writer: &mut Self, most: u32| {
            let length = writer.random.random_range(1..=most);
            for _ in 0..length {
                let digit = writer.random.random_range(0..10_u32);
                writer.text.push(char::from_digit(digit, 10).expect("a digit"));
            }
        };
        if self.random.random_bool(0.3) {
            self.text.push('-');
        }
        match self.random.random_range(0..4) {
            0 => self.text.push('0'),
            1 => self.text.push_str("0.00"),
            _ => {
                self.text.push('7');
                digits(self, 3);
            }
        }
        if !self.text.ends_with("0.00") && self.random.random_bool(0.4) {
            self.text.push('.');
            digits(self, 6);
        }
        if self.random.random_bool(0.6) {
            let near = [0, 5, 300, 16_370, 16_383, 131_060, 131_071, 400_000, 1_073_741_823];
            let near = near[self.random.random_range(0..near.len())];
            let exponent: i64 = near + self.random.random_range(-6..=6);
            let sign = self.one_of(&["e", "E", "e+", "e-", "E-0"]);
            self.text.push_str(&format!("{sign}{}", exponent.abs()));
        }
    }

    fn string(&mut self) {
        self.text.push('"');
        for _ in 0..self.random.random_range(0..5) {
            match self.random.random_range(0..6) {
                0..3 => {
                    let text = self.one_of(&["a", "é", "😀", "\u{7f}", "\u{ffff}", "/", "'"]);
                    self.text.push_str(text);
                }
                3 => {
                    let escape =
                        self.one_of(&["\\n", "\\\"", "\\\\", "\\/", "\\b", "\\x", "\\u00"]);
                    self.text.push_str(escape);
                }
                _ => {
                    let high = self.one_of(&["\\u00", "\\ud8", "\\uDC", "\\udb", "\\u20", "\\uff"]);
                    let low = self.one_of(&["00", "01", "3D", "ff", "41"]);
                    self.text.push_str(high);
                    self.text.push_str(low);
                }
            }
        }
        self.text.push('"');
    }
}

#[tokio::test]
async fn accepted_payloads_are_stored_by_postgresql() {
    let seed = std::env::var("PGHC_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(rand::random::<u64>);
    println!("run again with PGHC_SEED={seed}");
    let tasks = Tasks::default();
    let server = Throwaway::start();
    let client = server.connect(&tasks).await;
    let as_json = "select ($1::text)::json::text = $1";
    let as_json = client.prepare(as_json).await.expect("it is SQL");
    let as_jsonb = "select ($1::text)::jsonb is not null";
    let as_jsonb = client.prepare(as_jsonb).await.expect("it is SQL");
    let mut writer = Writer { random: StdRng::seed_from_u64(seed), text: String::new() };
    let (mut accepted, mut unstorable) = (0, 0);
    for _ in 0..6_000 {
        writer.text.clear();
        writer.value(4);
        let text = &writer.text;
        match payload::value(text.as_bytes()) {
            Ok(()) => {
                accepted += 1;
                for statement in [&as_json, &as_jsonb] {
                    let stored = client.query_one(statement, &[text]).await;
                    let stored = stored.unwrap_or_else(|error| panic!("{text}: {error:?}"));
                    assert!(stored.get::<_, bool>(0), "{text} is kept byte for byte");
                }
            }
            Err(fault) if fault.code == ErrorCode::UnstorablePayload => {
                unstorable += 1;
                let number = text[fault.at..].split(['e', 'E']).next().unwrap_or_default();
                let zero = number.chars().all(|digit| "-.0".contains(digit));
                let stored = client.query_one(&as_jsonb, &[text]).await.is_ok();
                assert!(!stored || zero, "we alone refuse {text}: {fault}");
            }
            Err(_) => {}
        }
    }
    println!("{accepted} accepted, {unstorable} refused as PostgreSQL refuses them");
    assert!(accepted > 1_000 && unstorable > 200);
}
