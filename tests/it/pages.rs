//! Pages whose commands a reader types, run as they stand but for ports, paths and the build.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use pghc_dev::postgres::{Server, ServerOptions};
use pghc_dev::scratch::Scratch;

use crate::harness::{binary, free_port, free_ports_in_a_row};
use crate::zones::query;

/// The blocks of commands of a page, without the indentation of a list.
fn commands(page: &str) -> String {
    let mut commands = String::new();
    let mut is_inside = false;
    for line in page.lines().map(|line| line.strip_prefix("   ").unwrap_or(line)) {
        match line {
            "```sh" => is_inside = true,
            "```" => is_inside = false,
            _ if is_inside => {
                commands.push_str(line);
                commands.push('\n');
            }
            _ => {}
        }
    }
    commands
}

/// The words of psql that ends early at `setup.sql`.
fn setup_on(server: &Server, setup: &str) -> String {
    let socket = server.socket_dir().display().to_string();
    let port = server.port().to_string();
    let mut psql = Command::new("psql");
    psql.args(["-X", "-U", "postgres", "-v", "ON_ERROR_STOP=1", "-v", "database=pghc"]);
    psql.args(["-h", &socket, "-p", &port, "-d", "postgres", "-c", "select 1", "-f", "-"]);
    psql.stdin(Stdio::piped()).stderr(Stdio::piped()).stdout(Stdio::null());
    let mut child = psql.spawn().expect("psql is installed");
    let mut input = child.stdin.take().expect("piped");
    // psql ends before it has read all of it.
    let _ = input.write_all(setup.as_bytes());
    drop(input);
    let output = child.wait_with_output().expect("it ends");
    assert!(!output.status.success(), "setup.sql took a database of another role");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Runs the commands of a page with bash, each text on the left replaced by the one on the right; returns what
/// they print.
async fn run_page(page: &str, substitutions: &[(&str, &str)]) -> String {
    let mut script = commands(page);
    for (written, here) in substitutions {
        assert!(script.contains(written), "{written} is not in the page");
        script = script.replace(written, here);
    }
    let script =
        format!("set -euo pipefail\ntrap 'kill $(jobs -p) 2>/dev/null || :' EXIT\n{script}");
    let mut shell = Command::new("timeout");
    shell.args(["120", "bash", "-c", &script]).current_dir(env!("CARGO_MANIFEST_DIR"));
    let output = tokio::task::spawn_blocking(move || shell.output()).await.expect("it ends");
    let output = output.expect("bash is there");
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "{script}\n{said}");
    said
}

#[tokio::test(flavor = "multi_thread")]
async fn quickstart_page_works_as_written() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = std::fs::read_to_string(root.join("docs/quickstart.md")).expect("the page");
    let scratch = Scratch::new("page").expect("a temporary directory");
    let data = scratch.path().join("data");
    let programs = binary();
    let programs = programs.parent().expect("a folder").display().to_string();
    let page =
        page.replace("%2Ftmp%2Fpghc-quickstart", &data.display().to_string().replace('/', "%2F"));
    let ports = free_ports_in_a_row(9);
    let ports: Vec<(String, String)> =
        (0..9).map(|at| (format!("{}", 24_000 + at), format!("{}", ports + at))).collect();
    let page = ports.iter().fold(page, |page, (written, here)| page.replace(written, here));
    let substitutions = [
        ("cargo build --bins", ":"),
        ("/tmp/pghc-quickstart", &data.display().to_string()),
        ("/tmp/write.json", &scratch.path().join("write.json").display().to_string()),
        ("target/debug", &programs),
    ];
    let said = run_page(&page, &substitutions).await;
    for words in ["\"id\":1", "PROVED: ", "eu-coordinator runs again", "(1 row)", "nothing is left"]
    {
        assert!(said.contains(words), "{words:?} is not in {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn own_postgresql_page_works_as_written() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = std::fs::read_to_string(root.join("docs/own-postgresql.md")).expect("the page");
    let scratch = Scratch::new("page").expect("a temporary directory");
    let options = ServerOptions::new(scratch.path().join("data"), free_port());
    let options = ServerOptions { temporary: true, ..options };
    let mut server = Server::start(options).await.expect("PostgreSQL is installed");
    // A server of a reader, whose logins are the reader's business.
    let access = server.data_dir().join("pg_hba.conf");
    let own = std::fs::read_to_string(&access).expect("readable");
    std::fs::write(&access, format!("local all all trust\n{own}")).expect("writable");
    query(&server.dsn_of("postgres"), "select pg_reload_conf()").await;
    // A database of another role is refused by setup.sql; the page makes its own.
    let setup = std::fs::read_to_string(root.join("deploy/postgres/setup.sql")).expect("the file");
    let refused = setup_on(&server, &setup);
    assert!(refused.contains("database pghc exists and belongs to postgres"), "{refused}");
    query(&server.dsn_of("postgres"), "drop database pghc").await;

    let (coordinator, api) = (free_port(), free_port());
    let data = scratch.path().join("coordinator");
    let socket = server.socket_dir().display().to_string();
    let program = binary();
    let substitutions = [
        ("cargo build --bins", ":"),
        ("/var/run/postgresql PGPORT=5432", &format!("{socket} PGPORT={}", server.port())),
        ("/tmp/coordinator", &data.display().to_string()),
        ("target/debug/pghc", &program.display().to_string()),
        ("7101", &coordinator.to_string()),
        ("8080", &api.to_string()),
    ];
    let said = run_page(&page, &substitutions).await;
    assert!(said.contains("\"id\":1") && said.contains("here-1"), "{said}");
    assert!(said.contains("(0 rows)"), "pghc.verify finds nothing: {said}");
    server.stop().await.expect("it stops");
}
