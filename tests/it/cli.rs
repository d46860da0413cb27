//! The command lines: exit codes, and messages of one line that name the thing.

mod deployments;
mod output;
mod zones;

use pghc_dev::scratch::Scratch;

use crate::harness::console::{PASSWORD, refuses, run};
use crate::harness::free_port;

const CLUSTER: &str = "0190a1b2-c3d4-7e5f-8091-a2b3c4d5e6f7";
const OTHER_CLUSTER: &str = "0290a1b2-c3d4-7e5f-8091-a2b3c4d5e6f7";
#[test]
fn program_refuses_unknown_option_by_name() {
    refuses("pghc", "--nope", 2, &["'--nope'"]);
    refuses("pghc", "stat", 2, &["'stat'", "'status'"]);
    refuses("pghc", "dev --zone 3", 2, &["'--zone'", "'--zones'"]);
    refuses("pghc", "dev --zones x", 2, &["--zones", "invalid digit"]);
    refuses("pghc", "dev --zones 0", 2, &["0 zones", "1 to 9"]);
    refuses("pghc", "dev --zones 10", 2, &["10 zones", "1 to 9"]);
    refuses("pghc", "dev --api-nodes 9", 2, &["9 API nodes", "1 to 8"]);
    refuses("pghc", "dev --base-port 80", 2, &["1024 to 65535"]);
    refuses("pghc", "dev --wan /no/such.csv", 2, &["/no/such.csv", "No such file"]);
    refuses("pghc", "status --format xml", 2, &["'xml'", "table, json"]);
    refuses("pghc", "status --data /no/such", 2, &["no deployment runs on /no/such"]);
    refuses("pghc", "status --api nonsense", 2, &["--api", "\"nonsense\" is not a URL"]);
    refuses("pghc", "coordinator", 2, &["--cluster-id", "--id", "--member"]);
    refuses("chain-verify", "", 3, &["--zone, --api or --file"]);
    refuses("chain-verify", "--nope", 3, &["'--nope'"]);
    refuses("chain-verify", "--zone eu", 3, &["--zone", "NAME=URL"]);
    refuses("chain-verify", "--zone eu=postgres://me:sesame@", 3, &["--zone", "names no host"]);
    refuses("chain-verify", "--zone eu=ftp://me:sesame@x", 3, &["--zone", "want postgres://"]);
    refuses("chain-verify", "--zone postgres://me:sesame@h/x?a=b", 3, &["--zone", "zone name"]);
    refuses("chain-verify", "--api https://x", 3, &["--api", "http://"]);
    refuses("chain-verify", "--file a --coordinator x", 3, &["--coordinator", "not a URL"]);
    refuses("chain-verify", "--file a --last 0", 3, &["--last", "0"]);
    refuses("chain-verify", "--file a --last 1 --from 2", 3, &["--last", "--from"]);
    refuses("chain-verify", "--file a --from 3 --to 2", 3, &["--from 3", "--to 2"]);
    refuses("chain-verify", "--file a --file a", 3, &["given twice"]);
    let audit = "zone audit --database postgres://a@127.0.0.1:1/b";
    refuses("pghc", &format!("{audit} --context nowhere"), 3, &["there is no", "config.toml"]);
    refuses("pghc", &format!("{audit} --config /no/such.json"), 3, &["/no/such.json"]);
    refuses("chain-verify", "--file Cargo.toml", 3, &["Cargo.toml", "nothing was checked"]);
    for program in ["pghc", "chain-verify"] {
        for flag in ["--help", "--version"] {
            let output = run(program, flag);
            assert!(output.status.success() && !output.stdout.is_empty(), "{program} {flag}");
            assert!(output.stderr.is_empty());
        }
    }
    let output = run("pghc", "");
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("Commands:"), "the help");
}

#[test]
fn a_coordinator_refuses_settings_that_cannot_be_right() {
    let scratch = Scratch::new("cli").expect("a directory");
    let data = scratch.path().join("data");
    let common =
        format!("coordinator --cluster-id {CLUSTER} --id 1 --zone eu --data {}", data.display());
    let member = "--member 1=eu=http://127.0.0.1:7101";
    let any = "--listen 127.0.0.1:0";
    for (rest, names) in [
        (format!("{any} --member 1=eu"), ["--member", "\"1=eu\" is not ID=ZONE=URL"]),
        (format!("{any} --member 1=eu=nonsense"), ["--member", "\"nonsense\" is not a URL"]),
        (format!("{any} --member 0=eu=http://x:1"), ["--member", "ID=ZONE=URL"]),
        (format!("{any} --member 2=eu=http://x:1"), ["--member 1=", "missing"]),
        (format!("{any} --member 1=us=http://x:1"), ["--zone eu", "--member 1=us"]),
        (format!("{any} {member} {member}"), ["coordinator 1", "twice"]),
        (format!("{any} {member} --profile fast"), ["'fast'", "auto, lan, wan"]),
        (
            format!("{any} {member} --log-bytes 9 --log-bytes-max 8"),
            ["--log-bytes-max 8", "--log-bytes 9"],
        ),
        (format!("{any} {member} --id 2"), ["'--id", "multiple times"]),
        (format!("--listen 0.0.0.0:0 {member}"), ["--listen 0.0.0.0:0", "not a loopback"]),
        (
            format!("--listen 192.0.2.1:1 --insecure-network {member}"),
            ["cannot listen on 192.0.2.1:1", "another process"],
        ),
        (format!("--listen nowhere {member}"), ["--listen", "invalid socket address"]),
    ] {
        refuses("pghc", &format!("{common} {rest}"), 2, &names);
    }
    assert!(!data.exists(), "nothing was touched");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("it is bound").to_string();
    refuses("pghc", &format!("{common} --listen {address} {member}"), 2, &[&address, "in use"]);
    std::fs::create_dir_all(&data).expect("a directory");
    for (cluster, id) in [(CLUSTER, 2), (OTHER_CLUSTER, 1)] {
        let identity = format!("{{\"cluster_id\":\"{cluster}\",\"coordinator_id\":{id}}}");
        std::fs::write(data.join("identity.json"), &identity).expect("written");
        let (shown, holds) =
            (data.display().to_string(), format!("coordinator {id} of cluster {cluster}"));
        refuses(
            "pghc",
            &format!("{common} {any} {member}"),
            1,
            &[&shown, &holds, "nothing was changed"],
        );
        let kept = std::fs::read_to_string(data.join("identity.json")).expect("readable");
        assert_eq!((kept, std::fs::read_dir(&data).expect("readable").count()), (identity, 1));
    }
}

#[test]
fn an_api_node_refuses_settings_that_cannot_be_right() {
    let start = format!("api --cluster-id {CLUSTER} --zone eu --node eu-1");
    let rest = "--coordinator http://127.0.0.1:1";
    let (any, dsn) = ("--listen 127.0.0.1:0", "--database postgres://me:sesame@127.0.0.1:1/x");
    for (line, names) in [
        (format!("{any} {rest} --database postgres://me:sesame@"), ["--database", "no host"]),
        (format!("{any} {rest} --database http://me:sesame@x"), ["--database", "want postgres://"]),
        (
            format!("{any} {rest} --database postgres://me:x@sesame@127.0.0.1:1/x"),
            ["--database", "write %40 in a password"],
        ),
        (format!("{any} {rest} {dsn} postgres://me:sesame@h/x"), ["unexpected argument", "'…'"]),
        (format!("{any} {rest} {dsn}?sslmode=require"), ["--database", "speaks no TLS"]),
        (format!("--listen 0.0.0.0:80 {rest} {dsn}"), ["--listen 0.0.0.0:80", "not a loopback"]),
        (format!("{any} {dsn} --coordinator nonsense"), ["--coordinator", "\"nonsense\""]),
        (format!("{any} {dsn}"), ["--coordinator", "not provided"]),
        (
            format!("--listen 192.0.2.1:1 --insecure-network {rest} {dsn}"),
            ["cannot listen on 192.0.2.1:1", "another process"],
        ),
        (format!("{any} {rest} {dsn} --cors-origin example.org"), ["--cors-origin", "example.org"]),
        (
            format!("{any} {rest} {dsn} --payload-bytes-max 2000000"),
            ["--payload-bytes-max", "1048576"],
        ),
        (format!("{any} {rest} {dsn} --synchronous-commit no"), ["'no'", "on, off"]),
    ] {
        refuses("pghc", &format!("{start} {line}"), 2, &names);
    }
    for (line, names) in [
        (
            format!("api --cluster-id X --zone eu --node n {any} {rest} {dsn}"),
            ["--cluster-id", "\"X\""],
        ),
        (
            format!("api --cluster-id {CLUSTER} --zone 1 --node n {any} {rest} {dsn}"),
            ["--zone", "\"1\""],
        ),
        (
            format!("api --cluster-id {CLUSTER} --zone eu --node 1n {any} {rest} {dsn}"),
            ["--node", "\"1n\""],
        ),
    ] {
        refuses("pghc", &line, 2, &names);
    }
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("it is bound").to_string();
    refuses("pghc", &format!("{start} --listen {address} {rest} {dsn}"), 2, &[&address, "in use"]);
}

#[test]
fn configuration_error_names_file_with_key() {
    let scratch = Scratch::new("cli").expect("a directory");
    let path = scratch.path().join("pghc.toml");
    let file = path.display().to_string();
    let api = format!("api --config {file}");
    refuses("pghc", &api, 2, &[&file, "No such file"]);
    for (text, names) in [
        ("zone = \"eu\"\nzoen = \"eu\"\n", ["key \"zoen\"", "--zone"]),
        ("zone = \"eu\"\nlisten = \n", ["is not TOML", "line 2"]),
        ("listen = \"nowhere\"\n", ["key \"listen\"", "invalid socket address"]),
        ("database = \"http://me:sesame@x\"\n", ["key \"database\"", "want postgres://"]),
        ("[zone]\nname = \"eu\"\n", ["key \"zone\"", "not table"]),
        ("zone = 1.5\n", ["key \"zone\"", "not float"]),
        ("coordinator = [1]\n", ["key \"coordinator\"", "a list of other things"]),
    ] {
        std::fs::write(&path, text).expect("written");
        refuses("pghc", &api, 2, &[&file, names[0], names[1]]);
    }
    std::fs::write(&path, b"\xff\xfe").expect("written");
    refuses("pghc", &api, 2, &[&file, "UTF-8"]);
}

#[test]
fn a_matrix_that_is_none_is_refused_with_its_place() {
    let scratch = Scratch::new("cli").expect("a directory");
    let path = scratch.path().join("matrix.csv");
    let file = path.display().to_string();
    for (text, names) in [
        ("a,b\n", ["line 1, column 1", "\"a\""]),
        ("zone,eu,us\neu,0,x\nus,1,0\n", ["line 2, column 3", "\"x\""]),
        ("zone,eu,us\neu,0,-1\nus,1,0\n", ["line 2, column 3", "-1"]),
        ("zone,eu,us\neu,0,1\n", ["line 2", "ends after 1 of 2 rows"]),
    ] {
        std::fs::write(&path, text).expect("written");
        refuses("pghc", &format!("dev --wan {file}"), 2, &[&file, names[0], names[1]]);
    }
    std::fs::write(&path, "zone,eu,us\neu,0,1\nus,1,0\n").expect("written");
    refuses("pghc", &format!("dev --zones 3 --wan {file}"), 2, &["2 zones, not 3"]);
}

#[test]
fn unreachable_server_is_named_as_failure() {
    let port = free_port();
    let status = run("pghc", &format!("status --api http://127.0.0.1:{port}"));
    assert_eq!(status.status.code(), Some(2));
    let said = String::from_utf8_lossy(&status.stdout).into_owned();
    assert!(said.contains(&format!("127.0.0.1:{port}")) && !said.contains("healthy"), "{said}");
    for place in
        [format!("postgres://me:sesame@127.0.0.1:{port}/x"), format!("http://127.0.0.1:{port}")]
    {
        let proof = run("chain-verify", &format!("--zone far={place} --wait 0"));
        assert_eq!(proof.status.code(), Some(2));
        let said = String::from_utf8_lossy(&proof.stdout).into_owned();
        assert!(said.contains("far") && !said.contains(PASSWORD), "{said}");
    }
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = taken.local_addr().expect("it is bound").port();
    refuses(
        "pghc",
        &format!("dev --zones 1 --base-port {port}"),
        2,
        &[&port.to_string(), "in use"],
    );
}
