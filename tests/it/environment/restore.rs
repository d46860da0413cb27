//! Databases restored without parts of their schema, and applications in the way of a migration:
//! one finding for each cause, with matching advice.

use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::Arc;

use pghc_dev::postgres::Install;
use pghc_dev::scratch::Scratch;
use pghc_postgres::{Finding, MigrateError};

use super::{Place, dsn_of, start};

/// A program of the PostgreSQL under test; `None` where its binaries are servers only.
fn program(name: &str) -> Option<PathBuf> {
    let path = Install::find().expect("PostgreSQL is installed").bin.join(name);
    if path.is_file() {
        return Some(path);
    }
    eprintln!("SKIPPED: this PostgreSQL comes without {name}");
    None
}

async fn run(program: &Path, arguments: &[&str]) -> Output {
    let mut command = tokio::process::Command::new(program);
    command.args(arguments).output().await.expect("it runs")
}

/// Dumps a place and restores it into another, with more arguments for the dump.
async fn copy(from: &Place, to: &Place, more: &[&str]) -> Option<()> {
    let (dump, psql) = (program("pg_dump")?, program("psql")?);
    let scratch = Scratch::new("dump").unwrap();
    let file = scratch.path().join("dump.sql").display().to_string();
    let source = dsn_of(&from.shared.server, &from.name);
    let dumped = run(&dump, &[&["--file", &file], more, &["--dbname", &source]].concat()).await;
    assert!(dumped.status.success(), "{}", String::from_utf8_lossy(&dumped.stderr));
    let target = dsn_of(&to.shared.server, &to.name);
    // Without roles some of it fails, as it does for people.
    run(&psql, &["-X", "-q", "-d", &target, "-f", &file]).await;
    Some(())
}

fn only(result: Result<Vec<Finding>, MigrateError>) -> (Finding, String) {
    match result {
        Err(error) => match &error {
            MigrateError::Unfit(findings) if findings.len() == 1 => {
                (findings[0].clone(), error.to_string())
            }
            _ => panic!("{error:?}"),
        },
        Ok(findings) => panic!("fit: {findings:?}"),
    }
}

#[tokio::test]
async fn a_restore_without_roles_is_one_finding_with_the_way_out() {
    let place = Place::new().await;
    place.fill(&place.dsn(), 5).await;
    let elsewhere = Place::on(Arc::new(start(&[]).await), "").await.unwrap();
    let Some(()) = copy(&place, &elsewhere, &[]).await else { return };
    let (finding, text) = only(elsewhere.migrate(&elsewhere.dsn()).await);
    assert!(matches!(&finding, Finding::NoRoles(names) if names.len() == 4), "{finding:?}");
    assert!(text.contains("setup.sql") && text.len() < 700, "{text}");

    for (more, is_owner) in [(["--no-owner", "--no-acl"], true), (["--no-acl", "-b"], false)] {
        let copied = Place::new().await;
        copy(&place, &copied, &more).await.expect("the programs are there");
        let (finding, text) = only(copied.migrate(&copied.dsn()).await);
        assert_eq!(matches!(finding, Finding::Owner(_)), is_owner, "{more:?}: {finding:?}");
        assert!(is_owner || finding == Finding::NoGrants, "{more:?}: {finding:?}");
        assert!(text.contains("setup.sql"), "{text}");
    }

    let whole = Place::new().await;
    copy(&place, &whole, &[]).await.expect("the programs are there");
    assert_eq!(whole.migrate(&whole.dsn()).await.expect("a whole restore is fit"), []);
}

#[tokio::test]
async fn the_way_out_of_a_refused_migration_fits_its_cause() {
    let place = Place::new().await;
    place
        .sql(
            "create function public.no_ddl() returns event_trigger language plpgsql as
               $$ begin raise exception 'no DDL in office hours'; end $$;
             create event trigger no_ddl on ddl_command_start execute function public.no_ddl()",
        )
        .await;
    let text = place.unfit().await;
    for words in ["no DDL in office hours", "no_ddl()", "alter event trigger"] {
        assert!(text.contains(words), "{text}");
    }
    assert!(!text.contains("superuser"), "{text}");

    let place = Place::new().await;
    place.sql("create table public.chain (mine int)").await;
    let text = place.unfit().await;
    assert!(text.contains("already exists") && text.contains("in the way"), "{text}");
    assert!(!text.contains("superuser"), "{text}");
}

#[tokio::test]
async fn a_long_list_of_findings_is_told_shortly() {
    let place = Place::new().await;
    place.fill(&place.dsn(), 2).await;
    for number in 0..30 {
        let sql = format!("alter table pghc.evidence add column {}{number} int", "x".repeat(50));
        place.sql(&sql).await;
    }
    let error = place.migrate(&place.dsn()).await.expect_err("it is not fit");
    let MigrateError::Unfit(findings) = &error else { panic!("{error:?}") };
    assert_eq!(findings.len(), 30);
    let text = error.to_string();
    assert!(text.contains("and 27 more") && text.len() < 700, "{text}");
}
