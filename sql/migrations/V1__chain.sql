-- The tables of a zone: one row per write, the frontier, whose database this is, and what was found
-- wrong with it. Runs as pghc_owner, in schema pghc, which exists already.
--
-- Every table that is updated has a primary key, which is its replica identity: otherwise PostgreSQL
-- would refuse the update once a publication for all tables is created in this database.

create table pghc.cluster (
  cluster_id uuid not null,
  zone text not null,
  constraint cluster_pkey primary key (cluster_id)
);
create unique index cluster_one_row on pghc.cluster ((true));
comment on table pghc.cluster is
  'The one cluster and zone whose chain this is; every digest covers the cluster id.';

create table pghc.chain (
  id bigint not null,
  node_id text not null,
  hash char(32) not null,
  digest bytea not null,
  written_at timestamptz not null,
  payload json,
  constraint chain_pkey primary key (id),
  -- One constraint and only cheap terms: this runs for every row. pghc.apply checks the rest.
  constraint chain_form check (octet_length(node_id) >= 1 and octet_length(node_id) <= 64
    and octet_length(digest) = 32 and isfinite(written_at))
);
comment on table pghc.chain is 'Every write of the cluster in its total order, without a gap.';
comment on column pghc.chain.node_id is 'API node that accepted the write.';
comment on column pghc.chain.hash is 'md5(id::text || node_id || hash of the link before).';
comment on column pghc.chain.digest is 'SHA-256, see pghc.link_digest; covers the payload too.';
comment on column pghc.chain.written_at is 'Commit time: the same in every zone, never going back.';
comment on column pghc.chain.payload is 'Exactly the bytes that were sent; type json keeps them.';

-- Updated with every batch. Room on its page keeps the updates inside it (HOT).
create table pghc.frontier (
  chain integer not null default 0,
  applied_id bigint not null,
  hash char(32),
  digest bytea,
  written_at timestamptz,
  epoch bigint not null,
  applier text,
  renewed_at timestamptz not null,
  backend_pid integer,
  backend_login oid,
  server_started timestamptz,
  constraint frontier_pkey primary key (chain),
  constraint frontier_one_row check (chain = 0),
  constraint frontier_epoch_positive check (epoch >= 0),
  constraint frontier_head check (
    case when applied_id = 0 then num_nulls(hash, digest, written_at) = 3
    else applied_id > 0 and num_nulls(hash, digest, written_at) = 0 end
  )
) with (fillfactor = 10);
comment on table pghc.frontier is
  'How far this zone has applied, and which session may apply: the one of the newest epoch.';
comment on column pghc.frontier.chain is 'Number of the chain; there is one.';
comment on column pghc.frontier.renewed_at is 'When that session last applied or said that it lives.';
comment on column pghc.frontier.backend_pid is 'Process id of that session, which pghc.apply demands.';
comment on column pghc.frontier.backend_login is 'Login role of that session.';
comment on column pghc.frontier.server_started is 'Which life of the server the process id is of.';

insert into pghc.frontier (applied_id, epoch, renewed_at) values (0, 0, clock_timestamp());

-- While a row is here the zone is fenced: nobody applies to it, whatever is restarted, until
-- `pghc zone reseed` sets the whole schema aside.
create table pghc.evidence (
  found_at timestamptz not null default clock_timestamp(),
  node text not null,
  id bigint not null,
  what text not null,
  expected text not null,
  found text not null,
  link text
);
alter table pghc.evidence replica identity full;
comment on table pghc.evidence is 'Why this zone is fenced; it is never deleted, only set aside.';
comment on column pghc.evidence.node is 'API node that found it.';
comment on column pghc.evidence.id is 'First bad id, 0 when it is not known.';
comment on column pghc.evidence.link is 'The row as it stood then; null when there was none.';

create view public.chain (zk_id, hash, node_id) as
  select id, hash, node_id from pghc.chain;
comment on view public.chain is 'The chain under the name and columns of the original PGHC.';

-- Only reading: whatever is written is written by a function of V2.
grant usage on schema pghc to pghc_applier, pghc_reader, pghc_auditor;
grant select on pghc.chain, pghc.frontier, pghc.cluster, pghc.evidence, public.chain
  to pghc_applier, pghc_reader, pghc_auditor;
grant select on pghc.migration to pghc_applier, pghc_reader, pghc_auditor;
