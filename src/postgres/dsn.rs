//! Connection strings: how they are read, and what is refused by name.
//!
//! Invariant: neither an error nor a printed form repeats a part of the text that may be a secret. A
//! value is never repeated, and an option is named only if it is one that clients of PostgreSQL know.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::AtomicI32;

use tokio_postgres::Config;
use tokio_postgres::config::{Host, LoadBalanceHosts, SslMode, TargetSessionAttrs};

use super::secret::{Secret, Surroundings};
use super::service;

/// Most servers that one connection string may name.
const SERVERS_MAX: usize = 8;

const WANTED: &str = "want postgres://user@host:port/database or host=… dbname=…";

/// The text is no usable connection string; says why without repeating a part that may be secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the PostgreSQL connection string is not usable: {0}")]
pub struct BadDsn(pub(super) String);

/// Where a database is and how to log in: a `postgres://` URL or `key=value` text. It may name
/// several servers, of which the first that answers (with `target_session_attrs=read-write`: the
/// first that is no replica) is taken. `service=` is looked up when the text is read, a password in a
/// file at every log-in. Its `Debug` and `Display` forms hold no password.
#[derive(Clone)]
pub struct Dsn {
    pub(super) config: Config,
    pub(super) secret: Secret,
    /// Newest major version that answered, 0 before: which settings a session may be born with.
    pub(super) version: Arc<AtomicI32>,
}

impl FromStr for Dsn {
    type Err = BadDsn;
    fn from_str(text: &str) -> Result<Self, BadDsn> {
        Self::parse(text, &Surroundings::of_process())
    }
}

impl Dsn {
    /// Reads a connection string; `service=` and the usual password file are looked for where
    /// `surroundings` say.
    pub(super) fn parse(text: &str, surroundings: &Surroundings) -> Result<Self, BadDsn> {
        let mut options = Options::read(text)?;
        if let Some(name) = options.0.remove("service") {
            let file = options.0.remove("servicefile");
            let more = service::find(&name, file.as_deref(), surroundings)?;
            for (key, value) in more {
                options.0.entry(key).or_insert(value);
            }
        }
        options.check()?;
        let mut config = Config::new();
        options.servers(&mut config)?;
        config.ssl_mode(SslMode::Disable);
        if let Some(user) = options.0.get("user") {
            config.user(user);
        }
        if let Some(name) = options.0.get("dbname") {
            config.dbname(name);
        }
        if let Some(given) = options.0.get("options") {
            config.options(given);
        }
        match options.get("target_session_attrs") {
            "read-write" | "primary" => config.target_session_attrs(TargetSessionAttrs::ReadWrite),
            "read-only" => config.target_session_attrs(TargetSessionAttrs::ReadOnly),
            _ => config.target_session_attrs(TargetSessionAttrs::Any),
        };
        if options.get("load_balance_hosts") == "random" {
            config.load_balance_hosts(LoadBalanceHosts::Random);
        }
        let secret = match options.0.get("password") {
            Some(password) => {
                config.password(password);
                Secret::Given
            }
            None => Secret::find(options.0.get("passfile").map(String::as_str), surroundings),
        };
        Ok(Self { config, secret, version: Arc::default() })
    }

    /// The same, with the password that is the first line of a file, whatever else the text says.
    #[must_use]
    pub fn with_password_file(mut self, path: &Path) -> Self {
        self.secret = Secret::Whole(path.into());
        self
    }

    /// Its servers, host and port each, in the order in which they are tried.
    pub(super) fn servers(&self) -> Vec<(String, u16)> {
        let host = |host: &Host| match host {
            Host::Tcp(name) => name.clone(),
            Host::Unix(path) => path.display().to_string(),
        };
        let mut hosts: Vec<String> = self.config.get_hosts().iter().map(host).collect();
        if hosts.is_empty() {
            hosts = self.config.get_hostaddrs().iter().map(ToString::to_string).collect();
        }
        let ports = self.config.get_ports();
        let port = |place: usize| ports.get(place).or(ports.first()).copied().unwrap_or(5432);
        hosts.into_iter().enumerate().map(|(place, host)| (host, port(place))).collect()
    }
}

impl fmt::Display for Dsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let user = self.config.get_user().unwrap_or_default();
        let places: Vec<_> =
            self.servers().iter().map(|(host, port)| format!("{host}:{port}")).collect();
        write!(f, "{user}@{}/{}", places.join(","), self.config.get_dbname().unwrap_or(user))
    }
}

impl fmt::Debug for Dsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Dsn({self})")
    }
}

/// What becomes of an option.
enum Rule {
    /// It is used.
    Used,
    /// Ours holds instead, or it changes nothing here.
    Ignored,
    /// It is refused, and this is the way out.
    Refused(&'static str),
}

const NO_TLS: &str = "this version speaks no TLS; leave it out and connect over loopback, a Unix \
                      socket or a private network";

const USED: &str = "host hostaddr port user password dbname options sslmode target_session_attrs \
    passfile service servicefile connect_timeout channel_binding gssencmode client_encoding \
    load_balance_hosts";

const IGNORED: &str = "application_name fallback_application_name keepalives keepalives_idle \
    keepalives_interval keepalives_count keepalives_retries tcp_user_timeout";

/// Options of PostgreSQL's clients, and of other drivers that are met often, with the way out.
const REFUSED: &[(&str, &str)] = &[
    (
        "ssl sslcert sslkey sslpassword sslrootcert sslcrl sslcrldir sslsni sslnegotiation \
         sslcompression sslcertmode sslkeylogfile requiressl ssl_min_protocol_version \
         ssl_max_protocol_version",
        NO_TLS,
    ),
    (
        "krbsrvname gsslib gssdelegation requirepeer require_auth replication \
         min_protocol_version max_protocol_version scram_client_key scram_server_key authtype tty",
        "is not supported; leave it out",
    ),
    (
        "pgbouncer",
        "says that a pooler stands in between; pghc needs sessions of its own: leave it out and \
         give host and port of PostgreSQL itself",
    ),
    (
        "schema search_path currentSchema connection_limit pool_timeout pool_size pool_max_conns \
         socket_timeout statement_cache_size statement_cache_capacity prepareThreshold \
         prepared_statements sslaccept sslidentity encoding charset timeout database username",
        "is an option of another driver; leave it out",
    ),
];

/// What becomes of an option; `None` for one that no client knows.
fn rule(key: &str) -> Option<Rule> {
    let names = |list: &str| list.split_whitespace().any(|name| name == key);
    match REFUSED.iter().find(|(list, _)| names(list)) {
        Some((_, way_out)) => Some(Rule::Refused(way_out)),
        None if names(USED) => Some(Rule::Used),
        None => names(IGNORED).then_some(Rule::Ignored),
    }
}

/// Options by name; the last of a name counts.
struct Options(BTreeMap<String, String>);

impl Options {
    fn read(text: &str) -> Result<Self, BadDsn> {
        let url = ["postgres://", "postgresql://"].iter().find_map(|way| text.strip_prefix(way));
        let pairs = match url {
            Some(rest) => read_url(rest)?,
            None => read_words(text)?,
        };
        let mut options = Self(BTreeMap::new());
        for (place, (key, value)) in pairs.into_iter().enumerate() {
            options.put(&key, value, place + 1)?;
        }
        Ok(options)
    }

    fn put(&mut self, key: &str, value: String, place: usize) -> Result<(), BadDsn> {
        match rule(key) {
            Some(Rule::Used) => {
                self.0.insert(key.to_owned(), value);
                Ok(())
            }
            Some(Rule::Ignored) => Ok(()),
            Some(Rule::Refused(way_out)) => Err(BadDsn(format!("{key}: {way_out}"))),
            None => Err(BadDsn(format!(
                "option number {place} is none that PostgreSQL's clients know (it is not repeated, \
                 since it may be part of a password); in a URL write %26 for & and %23 for #, in \
                 key=value text quote a value with spaces: password='…'"
            ))),
        }
    }

    fn get(&self, key: &str) -> &str {
        self.0.get(key).map_or("", String::as_str)
    }

    /// Refuses values by the name of their option.
    fn check(&self) -> Result<(), BadDsn> {
        let one_of = |key: &str, good: &[&str], way_out: &str| {
            if good.contains(&self.get(key)) { Ok(()) } else { refuse(key, way_out) }
        };
        match self.get("sslmode") {
            "" | "disable" | "allow" | "prefer" => {}
            mode @ ("require" | "verify-ca" | "verify-full") => {
                return Err(BadDsn(format!("sslmode={mode}: {NO_TLS}")));
            }
            _ => return refuse("sslmode", "want disable, allow or prefer"),
        }
        one_of("channel_binding", &["", "disable", "prefer"], NO_TLS)?;
        one_of("gssencmode", &["", "disable", "prefer"], "is not supported; leave it out")?;
        let encoding = self.get("client_encoding").to_lowercase().replace('-', "");
        if !["", "utf8", "auto"].contains(&encoding.as_str()) {
            return refuse("client_encoding", "pghc speaks UTF-8; leave it out");
        }
        one_of(
            "target_session_attrs",
            &["", "any", "read-write", "primary", "read-only"],
            "want any, read-write, primary or read-only",
        )?;
        one_of("load_balance_hosts", &["", "disable", "random"], "want disable or random")?;
        let seconds = self.get("connect_timeout");
        if !seconds.is_empty() && seconds.parse::<i64>().is_err() {
            return refuse("connect_timeout", "want a number of seconds");
        }
        Ok(())
    }

    /// Hosts, addresses and ports.
    fn servers(&self, config: &mut Config) -> Result<(), BadDsn> {
        let list = |key: &str| -> Vec<&str> {
            self.0.get(key).map(|text| text.split(',').collect()).unwrap_or_default()
        };
        let (hosts, addresses, ports) = (list("host"), list("hostaddr"), list("port"));
        let count = hosts.len().max(addresses.len());
        if count == 0 {
            return Err(bad("it names no host; for a Unix socket write host=/var/run/postgresql"));
        }
        if count > SERVERS_MAX {
            return Err(BadDsn(format!("it names {count} servers, want {SERVERS_MAX} at most")));
        }
        let is_odd = |others: usize| others != 0 && others != count;
        if is_odd(hosts.len())
            || is_odd(addresses.len())
            || (ports.len() > 1 && is_odd(ports.len()))
        {
            return Err(bad("host, hostaddr and port name different numbers of servers"));
        }
        for host in hosts {
            check_host(host)?;
            match host.strip_prefix('/') {
                Some(_) => config.host_path(host),
                None => config.host(host),
            };
        }
        for address in addresses {
            let address: Result<IpAddr, _> = address.parse();
            config.hostaddr(address.map_err(|_| bad("hostaddr: want an IP address"))?);
        }
        for port in ports {
            let number = if port.is_empty() { Ok(5432) } else { port.parse() };
            match number {
                Ok(number) if number > 0 => config.port(number),
                _ => return refuse("port", "want a number from 1 to 65535"),
            };
        }
        Ok(())
    }
}

fn bad(text: &str) -> BadDsn {
    BadDsn(text.to_owned())
}

fn refuse(key: &str, way_out: &str) -> Result<(), BadDsn> {
    Err(BadDsn(format!("{key}: {way_out}")))
}

const AT_IN_HOST: &str = "the host has an `@`: write %40 in a password";

fn check_host(host: &str) -> Result<(), BadDsn> {
    if host.contains('@') {
        return Err(bad(AT_IN_HOST));
    }
    let fits = |c: char| c.is_alphanumeric() || "-._:%".contains(c);
    if host.is_empty() || !(host.starts_with('/') || host.chars().all(fits)) {
        return Err(bad("a host is empty or holds what no host name has"));
    }
    Ok(())
}

/// Options of a URL behind its `postgres://`, in order.
fn read_url(rest: &str) -> Result<Vec<(String, String)>, BadDsn> {
    if rest.matches('@').count() > 1 {
        return Err(bad(AT_IN_HOST));
    }
    let mut pairs = Vec::new();
    let (login, rest) = rest.split_once('@').unwrap_or(("", rest));
    let (user, password) = login.split_once(':').unwrap_or((login, ""));
    for (key, text) in [("user", user), ("password", password)] {
        if !text.is_empty() {
            pairs.push((key.to_owned(), decode(text)?));
        }
    }
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (places, name) = rest.split_once('/').unwrap_or((rest, ""));
    if !places.is_empty() {
        let mut hosts = Vec::new();
        let mut ports = Vec::new();
        for place in places.split(',') {
            let (host, port) = match place.strip_prefix('[') {
                Some(inside) => {
                    let (host, behind) =
                        inside.split_once(']').ok_or_else(|| bad("a `[` has no `]`"))?;
                    (host, behind.strip_prefix(':').unwrap_or(behind))
                }
                None => place.split_once(':').unwrap_or((place, "")),
            };
            hosts.push(decode(host)?);
            ports.push(decode(port)?);
        }
        if hosts.iter().any(|host| !host.is_empty()) {
            pairs.push(("host".to_owned(), hosts.join(",")));
        }
        pairs.push(("port".to_owned(), ports.join(",")));
    }
    if !name.is_empty() {
        pairs.push(("dbname".to_owned(), decode(name)?));
    }
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) =
            pair.split_once('=').ok_or_else(|| bad("an option behind the `?` has no `=`"))?;
        pairs.push((decode(key)?, decode(value)?));
    }
    Ok(pairs)
}

/// Text with its `%xx` resolved.
fn decode(text: &str) -> Result<String, BadDsn> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, behind)) = rest.split_first() {
        rest = behind;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let digits = rest.split_at_checked(2).and_then(|(digits, behind)| {
            rest = behind;
            u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
        });
        bytes
            .push(digits.ok_or_else(|| bad("a `%` is not followed by two hex digits: write %25"))?);
    }
    String::from_utf8(bytes).map_err(|_| bad("it holds what is no UTF-8"))
}

/// Options of `key=value` text, in order. A value may stand in single quotes; `\` takes the next
/// character as it is.
pub(super) fn read_words(text: &str) -> Result<Vec<(String, String)>, BadDsn> {
    let mut pairs = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let (key, behind) = rest.split_once('=').ok_or_else(|| bad(WANTED))?;
        let key = key.trim_end();
        if key.is_empty() || !key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
            return Err(bad(WANTED));
        }
        let (value, behind) = read_value(behind.trim_start())?;
        pairs.push((key.to_owned(), value));
        rest = behind.trim_start();
    }
    Ok(pairs)
}

/// One value, and what stands behind it.
fn read_value(text: &str) -> Result<(String, &str), BadDsn> {
    let (is_quoted, mut value) = (text.starts_with('\''), String::new());
    let mut letters = text.char_indices().skip(usize::from(is_quoted));
    while let Some((place, letter)) = letters.next() {
        match letter {
            '\\' => value.extend(letters.next().map(|(_, letter)| letter)),
            '\'' if is_quoted => return Ok((value, &text[place + 1..])),
            _ if !is_quoted && letter.is_whitespace() => return Ok((value, &text[place..])),
            _ => value.push(letter),
        }
    }
    if is_quoted {
        return Err(bad("a quote `'` is not closed"));
    }
    Ok((value, ""))
}

/// Options that a service file gives, checked like those of a connection string.
pub(super) fn check_service(
    pairs: Vec<(String, String)>,
) -> Result<BTreeMap<String, String>, BadDsn> {
    let mut options = Options(BTreeMap::new());
    for (place, (key, value)) in pairs.into_iter().enumerate() {
        if key == "service" || key == "servicefile" {
            return Err(bad("a service may not name another service"));
        }
        options.put(&key, value, place + 1)?;
    }
    Ok(options.0)
}

#[cfg(test)]
mod tests;
