//! `pghc members`: lists the coordinators of a group and changes its membership.
//!
//! Exit codes: 0 done (or so already), 1 refused or not finished, 2 wrong usage or nothing answers.

use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};
use pghc_api::id::ClusterId;
use pghc_runtime::program::USAGE;

use super::coordinator::MemberArg;
use super::reach::Reach;
use super::view;
use tonic::Code;

use pghc_runtime::rpc;
use pghc_runtime::rpc::v1::change_request::Kind;
use pghc_runtime::rpc::v1::members_client::MembersClient;
use pghc_runtime::rpc::v1::{ChangeRequest, ListMembersRequest};

/// Longest a coordinator may take to answer at all.
const PATIENCE: Duration = Duration::from_secs(5);

/// Longest time for which a change is repeated while leaders are lost, and the pause between
/// attempts.
const REPEAT_FOR: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(500);

/// Arguments of `pghc members`.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    reach: Reach,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show the members: leader, votes, reachability, and the acknowledged position of each.
    List,
    /// Add a coordinator that was started with --join: it catches up, then it votes.
    Add {
        /// The new one as ID=ZONE=URL, with the URL as the other coordinators reach it.
        member: MemberArg,
        /// Leave it a learner: it follows and does not vote.
        #[arg(long)]
        learner: bool,
        #[command(flatten)]
        how: How,
    },
    /// Take a coordinator out of the group. Its id must never be used again.
    Remove {
        /// Its id.
        id: u64,
        #[command(flatten)]
        how: How,
    },
    /// Put a new coordinator in the place of another, living or dead, in one go.
    Replace {
        /// Id of the one that goes.
        old: u64,
        /// The new one as ID=ZONE=URL, started with --join.
        new: MemberArg,
        #[command(flatten)]
        how: How,
    },
    /// Make a learner a voter.
    Promote {
        /// Its id.
        id: u64,
        #[command(flatten)]
        how: How,
    },
    /// Make a voter a learner.
    Demote {
        /// Its id.
        id: u64,
        #[command(flatten)]
        how: How,
    },
    /// Have a voter lead.
    Lead {
        /// Its id.
        id: u64,
        #[command(flatten)]
        how: How,
    },
}

/// How a change is made.
#[derive(Debug, Args)]
struct How {
    /// Only say what would happen.
    #[arg(long)]
    dry_run: bool,
    /// Also if no further failure is survived afterwards.
    #[arg(long)]
    force: bool,
    /// Seconds to wait until a new member has caught up.
    #[arg(long, default_value_t = 600, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    wait: u32,
}

impl Command {
    /// The request; none for a list.
    fn request(self) -> Option<ChangeRequest> {
        let request = |kind: Kind, id, new: Option<MemberArg>, how: How| {
            let (new_id, zone, url) =
                new.map(|it| (it.id, it.zone.to_string(), it.url)).unwrap_or_default();
            Some(ChangeRequest {
                kind: kind.into(),
                coordinator_id: id,
                new_id,
                zone,
                url,
                force: how.force,
                dry_run: how.dry_run,
                wait_seconds: how.wait,
                ..ChangeRequest::default()
            })
        };
        match self {
            Self::List => None,
            Self::Add { member, learner, how } => {
                let request = request(Kind::Add, 0, Some(member), how);
                request.map(|request| ChangeRequest { learner, ..request })
            }
            Self::Replace { old, new, how } => request(Kind::Replace, old, Some(new), how),
            Self::Remove { id, how } => request(Kind::Remove, id, None, how),
            Self::Promote { id, how } => request(Kind::Promote, id, None, how),
            Self::Demote { id, how } => request(Kind::Demote, id, None, how),
            Self::Lead { id, how } => request(Kind::Lead, id, None, how),
        }
    }
}

/// Reason for which a coordinator refused or failed.
enum Failure {
    /// No coordinator was reached; nothing was changed.
    Unreached(String),
    /// The leader or the coordinator was lost meanwhile; the command may be repeated.
    Lost(String),
    Refused(String),
}

/// Sends the command to a coordinator that answers, and prints its reply. If the leader is lost
/// meanwhile, repeats the command at another coordinator, which is harmless, because every change
/// may be repeated.
pub async fn run(arguments: Arguments) -> ExitCode {
    let Arguments { reach, command } = arguments;
    let (cluster, mut urls) = match reach.named() {
        Ok(named) => named,
        Err(why) => {
            view::complain(&format!("pghc: {why}"));
            return ExitCode::from(USAGE);
        }
    };
    let request = command.request();
    let wait = request.as_ref().map_or(PATIENCE, |request| {
        Duration::from_secs(u64::from(request.wait_seconds)).min(REPEAT_FOR)
    });
    let until = tokio::time::Instant::now() + wait;
    loop {
        let failure = match ask(&urls, &cluster, request.as_ref()).await {
            Ok(()) => return ExitCode::SUCCESS,
            Err(failure) => failure,
        };
        let (why, code) = match failure {
            Failure::Lost(why) if tokio::time::Instant::now() < until => {
                view::complain(&format!("{why}; asking again"));
                tokio::time::sleep(PAUSE).await;
                // A coordinator that waits for admission, or is cut off, answers without knowing a
                // leader.
                urls.rotate_left(1);
                continue;
            }
            Failure::Lost(why) | Failure::Refused(why) => (why, 1),
            Failure::Unreached(why) => (why, USAGE),
        };
        view::complain(&format!("pghc: {why}"));
        return ExitCode::from(code);
    }
}

/// Asks the first coordinator that answers.
async fn ask(
    urls: &[String],
    cluster: &ClusterId,
    request: Option<&ChangeRequest>,
) -> Result<(), Failure> {
    let mut unreached = Vec::new();
    for url in urls {
        let caller = match rpc::connect(url, cluster, PATIENCE) {
            Ok(caller) => caller,
            Err(error) => {
                unreached.push(format!("{url}: {error}"));
                continue;
            }
        };
        let client = MembersClient::new(caller);
        let done = match request {
            None => list(client).await,
            Some(request) => change(client, request.clone()).await,
        };
        match done {
            Ok(()) => return Ok(()),
            // Nothing was sent there: the next may answer.
            Err(status) if rpc::is_connection_refused(&status) => {
                unreached.push(format!("{url}: no answer"));
            }
            Err(status) => {
                let why = status.message().to_owned();
                return Err(match status.code() {
                    Code::Unavailable | Code::Unknown | Code::Cancelled | Code::Internal => {
                        Failure::Lost(why)
                    }
                    _ => Failure::Refused(why),
                });
            }
        }
    }
    Err(Failure::Unreached(format!("no coordinator was reached ({})", unreached.join("; "))))
}

async fn list(mut client: MembersClient<rpc::Caller>) -> Result<(), tonic::Status> {
    let answer = client.list(ListMembersRequest {}).await?.into_inner();
    view::print(&view::members(&answer).to_string());
    if answer.joint {
        view::print("a change of the voters was begun and not ended: repeat its command");
    }
    Ok(())
}

async fn change(
    mut client: MembersClient<rpc::Caller>,
    request: ChangeRequest,
) -> Result<(), tonic::Status> {
    let mut lines = client.change(request).await?.into_inner();
    while let Some(progress) = lines.message().await? {
        view::print(&progress.line);
    }
    Ok(())
}
