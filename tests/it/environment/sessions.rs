//! Poolers, passwords in files, servers without room and servers whose files were replaced.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;

use pghc_dev::scratch::Scratch;
use pghc_postgres::{Applier, Commit, Dsn, Reader, Role};
use pghc_runtime::telemetry::describe;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::{Place, start};
use crate::harness::wait_for;

/// A DSN for the same login through another port.
fn through(place: &Place, port: u16) -> Dsn {
    let text = place.text();
    text.replace(&format!(":{}/", place.shared.server.port()), &format!(":{port}/"))
        .parse()
        .unwrap()
}

/// The first message of a client, without one of its settings.
async fn start_up_without(client: &mut TcpStream, left_out: &str) -> std::io::Result<Vec<u8>> {
    let length = usize::try_from(client.read_u32().await?).unwrap();
    let mut message = vec![0; length - 4];
    client.read_exact(&mut message).await?;
    let (protocol, settings) = message.split_at(4);
    let words: Vec<&[u8]> = settings.split(|byte| *byte == 0).collect();
    let mut kept = protocol.to_vec();
    for pair in words.chunks_exact(2).filter(|pair| !pair[0].is_empty()) {
        if pair[0] != left_out.as_bytes() {
            for word in pair {
                kept.extend_from_slice(word);
                kept.push(0);
            }
        }
    }
    kept.push(0);
    let mut whole = u32::try_from(kept.len() + 4).unwrap().to_be_bytes().to_vec();
    whole.extend(kept);
    Ok(whole)
}

#[tokio::test]
async fn a_pooler_that_drops_session_settings_is_named() {
    let place = Place::new().await;
    let pooler = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (port, server) = (pooler.local_addr().unwrap().port(), place.shared.server.port());
    place.tasks.spawn("pooler", async move {
        while let Ok((mut client, _)) = pooler.accept().await {
            let message = start_up_without(&mut client, "options").await.unwrap();
            let mut server = TcpStream::connect(("127.0.0.1", server)).await.unwrap();
            server.write_all(&message).await.unwrap();
            let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
        }
    });
    let dsn = through(&place, port);
    let migrated = describe(&place.migrate(&dsn).await.expect_err("a pooler"));
    assert!(migrated.contains("pgbouncer") && migrated.contains("PostgreSQL itself"), "{migrated}");
    let read = describe(&Reader::new(&dsn, 1).frontier().await.expect_err("a pooler"));
    assert!(read.contains("pgbouncer"), "{read}");
}

#[tokio::test]
async fn a_pooler_that_refuses_session_settings_is_named() {
    let place = Place::new().await;
    let pooler = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = pooler.local_addr().unwrap().port();
    place.tasks.spawn("pooler", async move {
        while let Ok((mut client, _)) = pooler.accept().await {
            start_up_without(&mut client, "").await.unwrap();
            let words = b"SFATAL\0C08P01\0Munsupported startup parameter: options\0\0";
            let mut answer = b"E".to_vec();
            answer.extend(u32::try_from(words.len() + 4).unwrap().to_be_bytes());
            answer.extend(words);
            client.write_all(&answer).await.unwrap();
        }
    });
    let error = through(&place, port).connect(Role::Login, "test", &place.tasks).await;
    let text = describe(&error.expect_err("a pooler"));
    assert!(text.contains("pgbouncer") && text.contains("PostgreSQL itself"), "{text}");
}

#[tokio::test]
#[ignore = "needs pgbouncer; scripts/versions installs it and runs this"]
async fn pgbouncer_in_transaction_mode_is_named() {
    let place = Place::new().await;
    let scratch = Scratch::new("bouncer").unwrap();
    let (port, server) = (crate::harness::free_port(), place.shared.server.port());
    let (ini, users) = (scratch.path().join("bouncer.ini"), scratch.path().join("users"));
    let name = &place.name;
    fs::write(&users, format!("\"{name}\" \"sesame\"\n")).unwrap();
    let text = format!(
        "[databases]\n{name} = host=127.0.0.1 port={server} password=sesame\n[pgbouncer]\n\
         listen_addr = 127.0.0.1\nlisten_port = {port}\npool_mode = transaction\n\
         auth_type = plain\nauth_file = {}\nunix_socket_dir =\n\
         ignore_startup_parameters = options\n",
        users.display()
    );
    fs::write(&ini, text).unwrap();
    for (path, mode) in [(scratch.path(), 0o755), (&ini, 0o644), (&users, 0o644)] {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }
    // PostgreSQL does not run as root.
    let is_root = nix::unistd::Uid::effective().is_root();
    let user = if is_root { vec!["-u", "nobody"] } else { vec![] };
    let mut command = tokio::process::Command::new("pgbouncer");
    let mut bouncer = command.args(user).arg(&ini).kill_on_drop(true).spawn().expect("installed");
    wait_for("pgbouncer", async || TcpStream::connect(("127.0.0.1", port)).await.ok()).await;
    let text = describe(&place.migrate(&through(&place, port)).await.expect_err("a pooler"));
    assert!(text.contains("pgbouncer") && text.contains("PostgreSQL itself"), "{text}");
    bouncer.kill().await.unwrap();
}

#[tokio::test]
async fn a_password_in_a_file_is_read_at_every_login() {
    let place = Place::on(Arc::new(start(&[]).await), "").await.unwrap();
    let server = &place.shared.server;
    let access = server.data_dir().join("pg_hba.conf");
    let before = fs::read_to_string(&access).unwrap();
    let line = format!("host all {} 127.0.0.1/32 scram-sha-256\n", place.name);
    fs::write(&access, line + &before).unwrap();
    place.sql("select pg_reload_conf()").await;
    let bare = place.text().replace(":sesame@", "@");
    let login = async |dsn: &Dsn| {
        let client = dsn.connect(Role::Login, "test", &place.tasks).await;
        client.map(drop).map_err(|error| describe(&error))
    };
    let refused = wait_for("a login without a password to be refused", async || {
        login(&bare.parse().unwrap()).await.err()
    })
    .await;
    assert!(refused.contains("--database-password-file"), "{refused}");

    let scratch = Scratch::new("pass").unwrap();
    let (lines, whole) = (scratch.path().join("lines"), scratch.path().join("whole"));
    let write = |password: &str, mode: u32| {
        fs::write(&lines, format!("*:*:*:{}:{password}\n", place.name)).unwrap();
        fs::write(&whole, password).unwrap();
        for path in [&lines, &whole] {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        }
    };
    let by_line: Dsn = format!("{bare}?passfile={}", lines.display()).parse().unwrap();
    let by_file = bare.parse::<Dsn>().unwrap().with_password_file(&whole);
    for password in ["sesame", "other"] {
        place.sql(&format!("alter role {} password '{password}'", place.name)).await;
        write(password, 0o600);
        for dsn in [&by_line, &by_file] {
            assert_eq!(login(dsn).await, Ok(()), "{password}");
        }
    }
    write("wrong", 0o600);
    let wrong = login(&by_line).await.expect_err("it is wrong");
    assert!(wrong.contains(&lines.display().to_string()), "{wrong}");
    write("other", 0o644);
    for dsn in [&by_line, &by_file] {
        let open = login(dsn).await.expect_err("others may read it");
        assert!(open.contains("chmod 600") && !open.contains("other:"), "{open}");
    }
}

#[tokio::test]
async fn reads_go_on_when_strangers_have_taken_all_sessions() {
    let settings = [("max_connections", "14"), ("superuser_reserved_connections", "1")];
    let place = Place::on(Arc::new(start(&settings).await), "").await.unwrap();
    let dsn = place.dsn();
    let links = place.fill(&dsn, 5).await;
    let reader = Reader::new(&dsn, 8);
    assert_eq!(reader.frontier().await.expect("it reads"), 5);
    let mut strangers = Vec::new();
    let count = "select count(*) from pg_stat_activity where backend_type = 'client backend'";
    // Sessions of before that are ending make room for a moment.
    wait_for("a full server", async || {
        while let Ok(client) = dsn.connect(Role::Login, "stranger", &place.tasks).await {
            strangers.push(client);
        }
        let sessions: i64 = place.admin.query_one(count, &[]).await.unwrap().get(0);
        (sessions == 14 && strangers.len() >= 11).then_some(())
    })
    .await;
    let reads = (0..6).map(|_| reader.page(0, 10));
    for page in futures::future::join_all(reads).await {
        assert_eq!(page.expect("the session that is open is waited for").links, links);
    }
    let fresh = Reader::new(&dsn, 8);
    let error = describe(&fresh.frontier().await.expect_err("there is no room"));
    assert!(error.contains("too many clients") || error.contains("connection slots"), "{error}");
    strangers.clear();
    let frontier = wait_for("room", async || fresh.frontier().await.ok()).await;
    assert_eq!(frontier, 5);
}

/// A server whose files were replaced cannot load its libraries; the same error comes from a
/// catalogue entry for a missing library.
#[tokio::test]
async fn a_server_upgraded_under_its_feet_is_named() {
    let place = Place::new().await;
    let dsn = place.dsn();
    place.fill(&dsn, 2).await;
    place
        .sql(
            "update pg_proc set probin = '$libdir/plpgsql-of-another-version' \
             where proname in ('plpgsql_call_handler', 'plpgsql_validator', 'plpgsql_inline_handler')",
        )
        .await;
    let applier = Applier::connect(&dsn, Commit::OnDisk, &place.tasks).await.expect("it connects");
    let acquired = applier.acquire(&"api-2".parse().unwrap(), Some(1)).await;
    let acquired = describe(&acquired.expect_err("the library is not there"));
    let other = Place::new().await;
    other
        .sql(
            "update pg_proc set probin = '$libdir/plpgsql-of-another-version' \
             where proname in ('plpgsql_call_handler', 'plpgsql_validator', 'plpgsql_inline_handler')",
        )
        .await;
    let migrated = other.unfit().await;
    for text in [acquired, migrated] {
        assert!(text.contains("only a restart of the PostgreSQL server helps"), "{text}");
        assert!(!text.contains("trying again is safe"), "{text}");
    }
}
