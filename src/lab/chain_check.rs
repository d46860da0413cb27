//! Runs `chain-verify` to check that the zones hold one chain. The verifier is a separate program,
//! so a load run and its proof share no code.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context as _;
use pghc_api::token::Token;
use pghc_api::wire::LinkBody;
use serde::{Deserialize, Serialize};
use tokio::process::Command;
use tokio::time::timeout;

use super::client::{Connection, post};
use super::target::{Endpoint, Target};

/// Longest time a verification may take.
const VERIFY_MAX: Duration = Duration::from_secs(600);
/// Longest time the link to verify by may take.
const WRITE_MAX: Duration = Duration::from_secs(30);

/// Result of `chain-verify`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckResult {
    /// Exit code 0: proved.
    pub passed: bool,
    /// Exit code; `None` when a signal ended the program.
    pub exit_code: Option<i32>,
    /// Report, as printed.
    pub report: String,
}

impl CheckResult {
    /// The line of the report that says it: the last one that begins with a capital letter, since
    /// advice may follow.
    #[must_use]
    pub fn line(&self) -> &str {
        let mut lines = self.report.trim_end().lines();
        lines.rfind(|line| line.starts_with(char::is_uppercase)).unwrap_or("it said nothing")
    }
}

/// The program `name` that was built together with this one: it lies in the same directory.
///
/// # Errors
/// When it is not there.
pub fn sibling(name: &str) -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe().context("cannot tell where this program is")?;
    // Tests run one directory deeper.
    let beside = own.ancestors().skip(1).take(2).map(|directory| directory.join(name));
    beside.into_iter().find(|path| path.is_file()).with_context(|| {
        format!("{name} is not beside {}; build it with `cargo build --bins`", own.display())
    })
}

/// Runs `chain-verify` over all zones of `target`.
///
/// # Errors
/// When it cannot be run to its end.
pub async fn verify(target: &Target) -> anyhow::Result<CheckResult> {
    verify_with(target, None).await
}

/// As [`verify`], for a cluster without concurrent writes. No zone proves its own tail: with a
/// single zone, one more link is written, and the token of its answer vouches for the chain.
///
/// # Errors
/// As [`verify`], and when the zone does not take that link.
pub async fn verify_at_rest(target: &Target) -> anyhow::Result<CheckResult> {
    let token = match target.zones.as_slice() {
        [only] => {
            let written = timeout(WRITE_MAX, write_one(&only.nodes[0])).await;
            let written = written.with_context(|| format!("no answer within {WRITE_MAX:?}"));
            Some(written.flatten().with_context(|| {
                format!(
                    "cannot write the link that proves zone {}: nothing was verified",
                    only.name
                )
            })?)
        }
        _ => None,
    };
    verify_with(target, token).await
}

/// Writes a link; the token of it.
async fn write_one(node: &Endpoint) -> anyhow::Result<Token> {
    let mut connection = Connection::open(node.address).await?;
    let request = post(&node.host, "/v1/chain", "application/json", None, b"{}");
    let answer = connection.exchange(&request).await?;
    anyhow::ensure!(answer.status == 201, "the answer was {}", answer.status);
    let link: LinkBody = serde_json::from_slice(answer.body).context("the answer is not a link")?;
    Ok(link.token)
}

async fn verify_with(target: &Target, token: Option<Token>) -> anyhow::Result<CheckResult> {
    let mut command = Command::new(sibling("chain-verify")?);
    if let Some(token) = token {
        command.arg("--token").arg(token.to_string());
    }
    for zone in &target.zones {
        command.arg("--zone").arg(format!("{}={}", zone.name, zone.dsn));
    }
    command.stdin(Stdio::null()).kill_on_drop(true);
    let output = timeout(VERIFY_MAX, command.output())
        .await
        .with_context(|| format!("chain-verify did not end within {VERIFY_MAX:?}"))?
        .context("cannot run chain-verify")?;
    let mut report = String::from_utf8_lossy(&output.stdout).into_owned();
    report.push_str(&String::from_utf8_lossy(&output.stderr));
    Ok(CheckResult { passed: output.status.success(), exit_code: output.status.code(), report })
}
