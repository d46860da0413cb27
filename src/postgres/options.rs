//! Options of a connection string or service file: how they are read, and which are refused by name.
//!
//! Invariant: an error never repeats a value, and names an option only if clients of PostgreSQL know it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use tokio_postgres::Config;

/// Most servers that one connection string may name.
const SERVERS_MAX: usize = 8;

const WANTED: &str = "want postgres://user@host:port/database or host=… dbname=…";

/// The text is no usable connection string; says why without repeating a part that may be secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the PostgreSQL connection string is not usable: {0}")]
pub struct BadDsn(pub(super) String);

/// Treatment of an option.
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

/// Returns the treatment of an option; `None` for one that no client knows.
fn rule(key: &str) -> Option<Rule> {
    let names = |list: &str| list.split_whitespace().any(|name| name == key);
    match REFUSED.iter().find(|(list, _)| names(list)) {
        Some((_, way_out)) => Some(Rule::Refused(way_out)),
        None if names(USED) => Some(Rule::Used),
        None => names(IGNORED).then_some(Rule::Ignored),
    }
}

/// Options by name; the last of a name counts.
pub(super) struct Options(pub(super) BTreeMap<String, String>);

impl Options {
    pub(super) fn read(text: &str) -> Result<Self, BadDsn> {
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

    pub(super) fn get(&self, key: &str) -> &str {
        self.0.get(key).map_or("", String::as_str)
    }

    /// Refuses values by the name of their option.
    pub(super) fn check(&self) -> Result<(), BadDsn> {
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
    pub(super) fn servers(&self, config: &mut Config) -> Result<(), BadDsn> {
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
fn read_words(text: &str) -> Result<Vec<(String, String)>, BadDsn> {
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
