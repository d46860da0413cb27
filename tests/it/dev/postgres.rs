//! A server under our care dies, comes back and leaves nothing.

use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::time::Duration;

use pghc_dev::postgres::{Server, ServerOptions};
use pghc_dev::scratch::Scratch;
use tokio_postgres::NoTls;

use crate::harness::free_port;

async fn query(dsn: &str, sql: &str) -> Vec<String> {
    let (client, connection) = tokio_postgres::connect(dsn, NoTls).await.expect("it listens");
    let messages = tokio::select! {
        messages = client.simple_query(sql) => messages.expect("good SQL"),
        _ = connection => panic!("the connection ended"),
    };
    let row = |message| match message {
        tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
        _ => None,
    };
    messages.into_iter().filter_map(row).collect()
}

#[tokio::test]
async fn killed_server_restarts_with_committed_data() {
    let scratch = Scratch::new("it").expect("a temporary directory");
    let options = ServerOptions::new(scratch.path().join("eu/pg"), free_port());
    let mut server = Server::start(options).await.expect("PostgreSQL is installed");
    let dsn = server.dsn();
    query(&dsn, "create table t (n int); insert into t values (7)").await;
    assert_eq!(query(&dsn, "show fsync").await, ["on"]);
    assert_eq!(query(&dsn, "show data_checksums").await, ["on"]);
    let before = server.pid().expect("it runs");
    server.kill().await.expect("it is reaped");
    assert_eq!(server.pid(), None);
    server.restart().await.expect("nothing blocks the restart");
    assert_ne!(server.pid(), Some(before));
    assert_eq!(query(&dsn, "select n from t").await, ["7"]);
    server.stop().await.expect("it stops");
    assert!(pghc_dev::process::command_line(before).is_none());
    server.restart().await.expect("it starts on the directory it stopped on");
    server.wait_ready(Duration::from_secs(5)).await.expect("it is ready");
}

#[tokio::test]
async fn temporary_servers_of_one_origin_share_no_data() {
    let scratch = Scratch::new("it").expect("a temporary directory");
    let start = async |name: &str| {
        let options = ServerOptions::new(scratch.path().join(name), free_port());
        Server::start(ServerOptions { temporary: true, ..options }).await.expect("it starts")
    };
    let (one, other) = (start("one").await, start("other").await);
    query(&one.dsn(), "create table t (n int); insert into t values (7)").await;
    let origin = "select system_identifier from pg_control_system()";
    assert_eq!(query(&one.dsn(), origin).await, query(&other.dsn(), origin).await);
    assert_eq!(query(&other.dsn(), "select to_regclass('t') is null").await, ["t"]);
    assert_eq!(query(&other.dsn(), "show data_checksums").await, ["on"]);
    drop(one);
    let third = start("third").await;
    assert_eq!(query(&third.dsn(), "select to_regclass('t') is null").await, ["t"]);
}

#[tokio::test]
async fn a_server_left_by_a_killed_owner_is_stopped_first() {
    let scratch = Scratch::new("it").expect("a temporary directory");
    let options = ServerOptions::new(scratch.path().join("pg"), free_port());
    let first = Server::start(options.clone()).await.expect("PostgreSQL is installed");
    let orphan = first.pid().expect("it runs");
    query(&first.dsn(), "create table t (n int); insert into t values (7)").await;
    // As after kill -9 of the owner: no process stops it. Its parent is alive, so it must be
    // reaped.
    let reaper = std::thread::spawn(move || {
        nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(orphan.cast_signed()), None)
    });
    std::mem::forget(first);
    let second = Server::start(options).await.expect("the orphan is stopped first");
    reaper.join().expect("no panic").expect("the orphan has ended");
    assert_eq!(query(&second.dsn(), "select n from t").await, ["7"]);
}

#[tokio::test]
async fn port_in_use_is_named_without_touching_data() {
    let scratch = Scratch::new("it").expect("a temporary directory");
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has free ports");
    let port = taken.local_addr().expect("it is bound").port();
    let refused = Server::start(ServerOptions::new(scratch.path().join("pg"), port)).await;
    let message = refused.expect_err("the port is taken").to_string();
    assert!(message.contains(&format!("port {port}")), "{message}");
}

#[tokio::test]
async fn a_zombie_in_the_lock_file_does_not_block_the_next_start() {
    let scratch = Scratch::new("it").expect("a temporary directory");
    let options = ServerOptions::new(scratch.path().join("pg"), free_port());
    let mut server = Server::start(options).await.expect("PostgreSQL is installed");
    let dsn = server.dsn();
    query(&dsn, "create table t (n int); insert into t values (7)").await;
    server.kill().await.expect("it is reaped");
    // As in a container whose first process reaps nothing: dead, with its number still in use.
    // PostgreSQL looks at processes of its own user only.
    let owner = std::fs::metadata(server.data_dir()).expect("it is there");
    let mut zombie = std::process::Command::new("true");
    if nix::unistd::Uid::effective().is_root() {
        zombie.uid(owner.uid()).gid(owner.gid());
    }
    let mut zombie = zombie.spawn().expect("true is there");
    while pghc_dev::process::identity(zombie.id()).is_some() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for file in ["postmaster.pid", &format!(".s.PGSQL.{}.lock", server.port())] {
        let path = server.data_dir().join(file);
        let text = std::fs::read_to_string(&path).expect("a killed server leaves it");
        let (_, rest) = text.split_once('\n').expect("lines");
        std::fs::write(&path, format!("{}\n{rest}", zombie.id())).expect("written");
    }
    server.restart().await.expect("a zombie serves nothing");
    assert_eq!(query(&dsn, "select n from t").await, ["7"]);
    zombie.wait().expect("reaped");
}

#[tokio::test]
async fn server_with_long_path_has_its_socket_elsewhere() {
    let scratch = Scratch::new("it").expect("a temporary directory");
    let deep = scratch.path().join("d".repeat(120)).join("pg");
    let options = ServerOptions { temporary: true, ..ServerOptions::new(deep, free_port()) };
    let server = Server::start(options).await.expect("PostgreSQL is installed");
    assert_eq!(query(&server.dsn(), "select 7").await, ["7"]);
    let elsewhere = server.socket_dir().to_owned();
    assert!(elsewhere.exists());
    drop(server);
    assert!(!elsewhere.exists());
}
