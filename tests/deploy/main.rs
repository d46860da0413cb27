//! Checks the files of `deploy/`: configuration files go through the real binary's parser, files
//! and tunnel fit together, and the alarms fire as intended. No server is started; `tests/guide`
//! runs the guide itself.

mod alarms;

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

/// Flags that are no settings of a file.
const NO_SETTINGS: &[&str] = &["config", "help", "version"];

fn deploy(file: &str) -> String {
    let path = format!("{}/deploy/{file}", env!("CARGO_MANIFEST_DIR"));
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Runs `pghc ROLE` on a file with this text, with an address that the process refuses to serve on;
/// reaching that refusal proves that every key was read. Returns exit code and last output.
fn refused(role: &str, text: &str) -> (Option<i32>, String) {
    let folder = tempfile::tempdir().expect("a directory");
    let path = folder.path().join("pghc.toml");
    fs::write(&path, text).expect("written");
    let output = Command::new(env!("CARGO_BIN_EXE_pghc"))
        .args([role, "--listen=192.0.2.1:1", "--config"])
        .arg(&path)
        .env_clear()
        .output()
        .expect("the binary runs");
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// The file's settings, those that are commented out (`#key = value`) too.
fn keys(text: &str) -> BTreeSet<String> {
    let key = |line: &str| {
        let (key, _) = line.trim_start_matches('#').split_once(" = ")?;
        let is_key = key.chars().all(|letter| letter.is_ascii_lowercase() || letter == '-');
        is_key.then(|| key.to_owned())
    };
    text.lines().filter_map(key).collect()
}

/// The role's flags as its help names them.
fn flags(role: &str) -> BTreeSet<String> {
    let output = Command::new(env!("CARGO_BIN_EXE_pghc"))
        .args([role, "--help"])
        .output()
        .expect("the binary runs");
    let help = String::from_utf8_lossy(&output.stdout).into_owned();
    let flag = |line: &str| {
        let (_, flag) = line.split_once("--").filter(|(before, _)| before.trim().len() <= 3)?;
        let end = flag.find([' ', '<']).unwrap_or(flag.len());
        Some(flag[..end].to_owned()).filter(|flag| !NO_SETTINGS.contains(&flag.as_str()))
    };
    help.lines().filter_map(flag).collect()
}

fn check(role: &str) {
    let text = deploy(&format!("config/{role}.toml"));
    assert_eq!(keys(&text), flags(role), "{role}.toml names every setting and no other");

    let defaults_too: String = text
        .lines()
        .map(|line| match line.strip_prefix('#').filter(|rest| !rest.starts_with(' ')) {
            Some(setting) => format!("{setting}\n"),
            None => format!("{line}\n"),
        })
        .collect();
    for file in [text.clone(), defaults_too] {
        let (code, words) = refused(role, &file);
        assert!(words.contains("192.0.2.1:1 is not a loopback address"), "{role}: {words}\n{file}");
        assert_eq!(code, Some(2), "{words}");
    }

    let (code, words) = refused(role, &format!("{text}\nlinger-ms = 5\n"));
    assert!(words.contains("unexpected argument '--linger-ms'"), "{role}: {words}");
    assert_eq!(code, Some(2), "{words}");
}

#[test]
fn coordinator_file_names_every_setting() {
    check("coordinator");
}

#[test]
fn api_node_file_names_every_setting() {
    check("api");
}

#[test]
fn files_of_one_machine_fit_their_units() {
    let (coordinator, api) = (deploy("config/coordinator.toml"), deploy("config/api.toml"));
    let value = |text: &str, key: &str| {
        let table: toml::Table = text.parse().expect("a TOML file");
        table[key].clone()
    };
    for key in ["cluster-id", "zone"] {
        assert_eq!(value(&coordinator, key), value(&api, key), "{key}");
    }
    let urls = |list: &toml::Value| -> BTreeSet<String> {
        let items = list.as_array().expect("a list").iter().filter_map(toml::Value::as_str);
        items.map(|item| item.rsplit('=').next().unwrap_or(item).to_owned()).collect()
    };
    // An API node names its own coordinator directly and the others by the near ends of the tunnel,
    // which are the same on every machine.
    let tunnel = deploy("tunnel/stunnel.conf");
    let members = urls(&value(&coordinator, "member"));
    let known = urls(&value(&api, "coordinator"));
    let listen = value(&coordinator, "listen");
    let own = format!("http://{}", listen.as_str().expect("an address"));
    assert!(known.contains(&own) && known.len() == members.len(), "{known:?}");
    assert_eq!(known.difference(&members).collect::<Vec<_>>(), [&own]);
    let advertised = urls(&toml::Value::Array(vec![value(&api, "advertise")]));
    for url in members.union(&advertised) {
        let near_end = format!("accept = {}\n", url.trim_start_matches("http://"));
        assert!(tunnel.contains(&near_end), "{near_end} is an end of the tunnel");
    }
    let scraped = deploy("prometheus/prometheus.yml");
    for near_end in tunnel.lines().filter_map(|line| line.strip_prefix("accept = 127.0.0.1:")) {
        let is_metrics = near_end.starts_with("712") || near_end.starts_with("713");
        assert_eq!(scraped.contains(&format!("127.0.0.1:{near_end}")), is_metrics, "{near_end}");
    }
    for (far_end, file, key) in [
        ("coordinator", &coordinator, "listen"),
        ("api", &api, "listen"),
        ("metrics", &coordinator, "metrics"),
    ] {
        let section = tunnel.split_once(&format!("[{far_end}]")).expect("a far end").1;
        let connect = section.lines().find_map(|line| line.strip_prefix("connect = "));
        assert_eq!(connect, value(file, key).as_str(), "{far_end}");
    }
    for role in ["coordinator", "api"] {
        let unit = deploy(&format!("systemd/pghc-{role}.service"));
        let start = format!("ExecStart=/usr/bin/pghc {role} --config /etc/pghc/{role}.toml\n");
        assert!(unit.contains(&start), "{unit}");
    }
}
