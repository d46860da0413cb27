//! Connection strings that are read or refused; no refusal repeats a secret.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use tempfile::TempDir;

use super::{BadDsn, Dsn};
use crate::secret::{Login, Surroundings};

fn nowhere() -> Surroundings {
    Surroundings::of(&[])
}

fn dsn(text: &str) -> Result<Dsn, BadDsn> {
    Dsn::parse(text, &nowhere())
}

fn refused(text: &str) -> String {
    dsn(text).expect_err(text).to_string()
}

#[test]
fn a_dsn_never_shows_its_password() {
    for text in [
        "postgres://eve:secret@db.example:5433/app",
        "host=db.example port=5433 user=eve password=secret dbname=app",
        "host = 'db.example' port= 5433 user =eve password='sec\\ret' dbname=app",
    ] {
        let dsn = dsn(text).expect("a good connection string");
        assert_eq!(
            format!("{dsn} {dsn:?}"),
            "eve@db.example:5433/app Dsn(eve@db.example:5433/app)"
        );
        assert_eq!(dsn.config.get_password(), Some(&b"secret"[..]));
    }
}

#[test]
fn servers_sockets_and_encoded_text_are_read() {
    for (text, shown) in [
        ("host=a,b port=1,2 user=u dbname=d", "u@a:1,b:2/d"),
        ("host=a,b user=u", "u@a:5432,b:5432/u"),
        ("postgres://u@a:1,b:2/d?target_session_attrs=read-write", "u@a:1,b:2/d"),
        ("postgresql://u%40x:p%40ss%25@[::1]:7/d%20b", "u@x@::1:7/d b"),
        ("postgres://u@%2Frun%2Fpg/d", "u@/run/pg:5432/d"),
        ("postgres:///d?host=/run/pg&port=7&user=u", "u@/run/pg:7/d"),
        ("hostaddr=10.0.0.1 user=u", "u@10.0.0.1:5432/u"),
        ("postgres://u@h/d?sslmode=prefer&connect_timeout=3&application_name=x", "u@h:5432/d"),
    ] {
        assert_eq!(dsn(text).map(|dsn| dsn.to_string()), Ok(shown.to_owned()), "{text}");
    }
    let encoded = dsn("postgres://u:p%40ss%25@h/d").expect("good");
    assert_eq!(encoded.config.get_password(), Some(&b"p@ss%"[..]));
}

#[test]
fn a_stray_at_sign_is_refused_without_repeating_the_text() {
    for text in [
        "postgres://u:p@sesame@host/db",
        "postgres://u:p@sesame/word@host/db",
        "postgres://u:p@host/db?options=sesame@x",
        "host=sesame@host user=u",
        "postgres://u:p@%40sesame/db",
    ] {
        let why = refused(text);
        assert!(why.contains("write %40 in a password"), "{why}");
        assert!(!why.contains("sesame"), "{why}");
    }
}

#[test]
fn each_refused_option_is_named_with_the_way_out() {
    let tls = "speaks no TLS; leave it out";
    for (text, name, way_out) in [
        ("postgres://u@h/d?sslrootcert=/x", "sslrootcert: ", tls),
        ("postgres://u@h/d?sslmode=verify-full", "sslmode=verify-full: ", tls),
        ("postgres://u@h/d?sslmode=require", "sslmode=require: ", tls),
        ("postgres://u@h/d?sslmode=x", "sslmode: ", "want disable, allow or prefer"),
        ("postgres://u@h/d?pgbouncer=true", "pgbouncer: ", "host and port of PostgreSQL itself"),
        ("postgres://u@h/d?schema=x", "schema: ", "of another driver; leave it out"),
        ("postgres://u@h:99999/d", "port: ", "from 1 to 65535"),
        ("host=h port=0", "port: ", "from 1 to 65535"),
        ("postgres://u@h/d?connect_timeout=abc", "connect_timeout: ", "number of seconds"),
        ("host=h target_session_attrs=standby", "target_session_attrs: ", "want any"),
        ("host=h client_encoding=latin1", "client_encoding: ", "UTF-8"),
        ("host=h channel_binding=require", "channel_binding: ", tls),
        ("hostaddr=x", "hostaddr: ", "IP address"),
        ("host=a,b port=1,2,3", "port name ", "different numbers"),
        ("service=x", "service: ", "PGSERVICEFILE"),
        ("dbname=app", "names no host", "host=/var/run/postgresql"),
        ("", "names no host", "host="),
        ("mysql://h/app", "want postgres://", "host=…"),
        ("postgres://u:%zz@h/d", "a `%`", "write %25"),
        ("host='h", "a quote", "not closed"),
    ] {
        let why = refused(text);
        assert!(why.contains(name) && why.contains(way_out), "{text}: {why}");
    }
}

#[test]
fn unknown_option_is_not_repeated() {
    for text in [
        "host=h password=correct sesame=1",
        "postgres://u@h/d?password=a&sesame=1",
        "host=h password=correct sesame user=u",
        "postgres://u:sesame/d",
        "sesame",
    ] {
        assert!(!refused(text).contains("sesame"), "{}", refused(text));
    }
}

fn write(dir: &TempDir, name: &str, mode: u32, text: &str) -> PathBuf {
    let path = dir.path().join(name);
    fs::write(&path, text).expect("written");
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("its mode is set");
    path
}

fn password(dsn: &Dsn) -> Result<Option<String>, String> {
    let (servers, user) = (dsn.servers(), dsn.config.get_user().unwrap_or_default());
    let database = dsn.config.get_dbname().unwrap_or(user);
    dsn.secret.password(Login { servers: &servers, database, user })
}

#[test]
fn a_password_file_gives_the_first_line_that_fits() {
    let dir = TempDir::new().expect("a directory");
    let lines =
        "# comment\nh:1:d:u:one\n*:*:d:u\\:x:t\\:w\\\\o:3\nlocalhost:*:*:s:socket\n*:*:*:*:any\n";
    let path = write(&dir, "pass", 0o600, lines);
    let home = write(&dir, ".pgpass", 0o600, "*:*:*:*:home\n");
    for (text, want) in [
        ("host=h port=1 dbname=d user=u", "one"),
        ("host=h port=2 dbname=d user=u", "any"),
        ("host=h dbname=d user=u:x", "t:w\\o:3"),
        ("host=/run/pg user=s", "socket"),
    ] {
        let named = dsn(&format!("{text} passfile={}", path.display())).expect("good");
        assert_eq!(password(&named), Ok(Some(want.to_owned())), "{text}");
        let variable = Surroundings::of(&[("PGPASSFILE", &path), ("HOME", dir.path())]);
        let by_variable = Dsn::parse(text, &variable).expect("good");
        assert_eq!(password(&by_variable), Ok(Some(want.to_owned())), "{text}");
    }
    let at_home = Surroundings::of(&[("HOME", dir.path())]);
    let usual = Dsn::parse("host=h user=u", &at_home).expect("good");
    assert_eq!(password(&usual), Ok(Some("home".to_owned())));
    fs::set_permissions(&home, fs::Permissions::from_mode(0o644)).expect("its mode is set");
    assert_eq!(password(&usual), Ok(None), "others may read it");
    assert!(usual.secret.advice().contains("chmod 600"), "{}", usual.secret.advice());
    let given = Dsn::parse("host=h user=u password=p", &at_home).expect("good");
    assert_eq!(password(&given), Ok(None), "the text has one");
}

#[test]
fn a_password_file_that_cannot_be_used_is_said() {
    let dir = TempDir::new().expect("a directory");
    let open = write(&dir, "open", 0o644, "*:*:*:*:sesame\n");
    let two = write(&dir, "two", 0o600, "a:*:*:*:sesame\nb:*:*:*:other\n");
    let missing = dir.path().join("missing");
    for (path, want) in
        [(&open, "chmod 600"), (&missing, "cannot be read"), (&two, "different passwords")]
    {
        let named = dsn(&format!("host=a,b user=u passfile={}", path.display())).expect("good");
        let why = password(&named).expect_err("it cannot be used");
        assert!(why.contains(want) && why.contains(&path.display().to_string()), "{why}");
        assert!(!why.contains("sesame"), "{why}");
    }
    let whole = write(&dir, "whole", 0o600, "sesame\n");
    let dsn = dsn("host=a user=u").expect("good");
    assert_eq!(password(&dsn.clone().with_password_file(&whole)), Ok(Some("sesame".to_owned())));
    let empty = write(&dir, "empty", 0o600, "");
    assert!(password(&dsn.with_password_file(&empty)).expect_err("empty").contains("is empty"));
}

#[test]
fn service_supplies_missing_options() {
    let dir = TempDir::new().expect("a directory");
    let text = "# services\n[other]\nhost=x\n[zone]\nhost=db\nport = 7\nuser=u\npassword=p\n[more]\nhost=y\n";
    let path = write(&dir, "pg_service.conf", 0o644, text);
    let by_variable = Surroundings::of(&[("PGSERVICEFILE", &path)]);
    let at_home = TempDir::new().expect("a directory");
    fs::copy(&path, at_home.path().join(".pg_service.conf")).expect("copied");
    let at_home = Surroundings::of(&[("HOME", at_home.path())]);
    let system = Surroundings::of(&[("PGSYSCONFDIR", dir.path())]);
    for surroundings in [&by_variable, &at_home, &system] {
        for text in ["service=zone dbname=d", "postgres:///d?service=zone"] {
            let dsn = Dsn::parse(text, surroundings).expect(text);
            assert_eq!(dsn.to_string(), "u@db:7/d", "{text}");
            assert_eq!(dsn.config.get_password(), Some(&b"p"[..]));
        }
    }
    let inside = format!("service=zone user=me servicefile={}", path.display());
    assert_eq!(dsn(&inside).expect("good").to_string(), "me@db:7/me");
    let why = |text: &str| Dsn::parse(text, &by_variable).expect_err(text).to_string();
    assert!(why("service=gone").contains("pg_service.conf has no such service"));
    let bad = |line: &str| {
        let path = write(&dir, "bad", 0o644, &format!("[zone]\nhost=db\n{line}\n"));
        Dsn::parse("service=zone", &Surroundings::of(&[("PGSERVICEFILE", &path)]))
            .expect_err(line)
            .to_string()
    };
    assert!(bad("ldap://x").contains("line 3: ldap"), "{}", bad("ldap://x"));
    assert!(bad("sslrootcert=x").contains("sslrootcert: this version"));
    assert!(bad("service=y").contains("another service"));
}

proptest! {
    #[test]
    fn no_text_panics_or_is_repeated(text in "(postgres://)?[a-z@:/?&=%'\\\\ ,\\[\\]é]{0,40}") {
        if let Err(error) = dsn(&format!("{text}S3SAME")) {
            prop_assert!(!error.to_string().contains("S3SAME"));
        }
    }

    #[test]
    fn a_quoted_or_encoded_password_comes_back_as_it_was(password in "[ -~é]{1,20}") {
        let quoted = password.replace('\\', "\\\\").replace('\'', "\\'");
        let words = dsn(&format!("host=h user=u password='{quoted}'")).expect("good");
        prop_assert_eq!(words.config.get_password(), Some(password.as_bytes()));
        let encoded: String = password.bytes().map(|byte| format!("%{byte:02x}")).collect();
        let url = dsn(&format!("postgres://u:{encoded}@h/d")).expect("good");
        prop_assert_eq!(url.config.get_password(), Some(password.as_bytes()));
    }
}

#[test]
fn the_home_of_a_process_without_one_is_no_file() {
    assert_eq!(nowhere().at_home("x"), None);
    assert_eq!(Surroundings::of(&[("HOME", Path::new(""))]).at_home("x"), None);
}
