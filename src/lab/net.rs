//! A client of the emulator's control interface: changes distances and cuts of a running deployment.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use comfy_table::{Cell, Table, presets};
use pghc_dev::record::DeploymentRecord;
use pghc_runtime::http_client::{Bounds, HttpClient};
use pghc_wan::Cut;
use pghc_wan::conditions::Change;
use pghc_wan::control::Net;
use reqwest::Method;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Longest wait for an answer.
const ANSWER_MAX: Duration = Duration::from_secs(5);
const BOUNDS: Bounds =
    Bounds { connect: ANSWER_MAX, silence: ANSWER_MAX, whole: ANSWER_MAX, answer_bytes: 16 << 20 };

/// The emulator of a running deployment.
#[derive(Debug, Clone)]
pub struct Remote {
    http: HttpClient,
    url: String,
}

impl Remote {
    /// The emulator that takes orders at `url`.
    ///
    /// # Panics
    /// If the system has no randomness to give to the HTTP client.
    #[must_use]
    pub fn at(url: &str) -> Self {
        let http = HttpClient::new(BOUNDS);
        Self { http, url: url.trim_end_matches('/').to_owned() }
    }

    /// The emulator of the deployment whose `parade.json`, or the directory that holds it, is `path`.
    ///
    /// # Errors
    /// When there is no such file, or its deployment has no distances.
    pub fn of(path: &Path) -> anyhow::Result<Self> {
        let url = DeploymentRecord::find(path)?.wan.with_context(|| {
            format!("the deployment of {} has no distances; start it with --wan", path.display())
        })?;
        Ok(Self::at(&url))
    }

    /// How it is.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn show(&self) -> anyhow::Result<Net> {
        self.ask(Method::GET, "net", None::<()>).await
    }

    /// Changes lines; `*` means all zones.
    ///
    /// # Errors
    /// When it refuses or does not answer.
    pub async fn set(&self, from: &str, to: &str, change: &Change) -> anyhow::Result<()> {
        let path = format!("links/{from}/{to}");
        self.ask::<serde_json::Value>(Method::PATCH, &path, Some(change)).await.map(drop)
    }

    /// Cuts; returns the cut's number.
    ///
    /// # Errors
    /// When it refuses or does not answer.
    pub async fn cut(&self, cut: &Cut) -> anyhow::Result<u64> {
        let answer: serde_json::Value = self.ask(Method::POST, "cuts", Some(cut)).await?;
        answer["cut"].as_u64().context("the emulator named no cut")
    }

    /// Heals one cut, or all; returns how many.
    ///
    /// # Errors
    /// When it refuses or does not answer.
    pub async fn heal(&self, number: Option<u64>) -> anyhow::Result<u64> {
        let path = number.map_or("cuts".to_owned(), |number| format!("cuts/{number}"));
        let answer: serde_json::Value = self.ask(Method::DELETE, &path, None::<()>).await?;
        answer["healed"].as_u64().context("the emulator healed nothing that it could count")
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<impl Serialize>,
    ) -> anyhow::Result<T> {
        let url = format!("{}/v1/{path}", self.url);
        let mut request = self.http.request(method, &url);
        if let Some(body) = body {
            request = request.json(&body);
        }
        let silent = || format!("the emulator at {} does not answer", self.url);
        let answer = self.http.send(request).await.with_context(silent)?;
        let text = String::from_utf8_lossy(&answer.body);
        if !answer.status.is_success() {
            let value: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
            bail!("the emulator refused: {}", value["error"].as_str().unwrap_or(&text));
        }
        serde_json::from_str(&text).with_context(|| format!("{url} is not an emulator of pghc"))
    }
}

/// A [`Net`] as a table.
#[derive(Debug, Clone, Serialize)]
#[serde(transparent)]
pub struct NetTable(pub Net);

impl fmt::Display for NetTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Net { links, cuts, stats, check } = &self.0;
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        table.set_header(["from", "to", "one way ms", "jitter", "loss", "bandwidth", "state"]);
        for line in links {
            let state = match line.cut {
                None => "open".to_owned(),
                Some(how) => format!("CUT ({how:?})").to_lowercase(),
            };
            table.add_row([
                Cell::new(&line.from),
                Cell::new(&line.to),
                Cell::new(format!("{:.2}", line.delay_ms)),
                Cell::new(line.jitter),
                Cell::new(line.loss),
                Cell::new(line.bandwidth),
                Cell::new(state),
            ]);
        }
        writeln!(f, "{}", table.trim_fmt())?;
        for (number, cut) in cuts {
            let (from, to) = (cut.from.join(","), cut.to.join(","));
            let (way, how) = (format!("{:?}", cut.way), format!("{:?}", cut.how));
            writeln!(f, "cut {number}      {from} | {to}, {way}, {how}")?;
        }
        if let Some(check) = check {
            let (p50, p99) = (check.late_p50_us, check.late_p99_us);
            writeln!(f, "at start   one way late by p50 {p50} us, p99 {p99} us")?;
        }
        write!(
            f,
            "so far     {} payloads, {} bytes, {} connections open; late by p50 {} us, p99 {} us",
            stats.payloads, stats.bytes, stats.open, stats.late_p50_us, stats.late_p99_us
        )
    }
}
