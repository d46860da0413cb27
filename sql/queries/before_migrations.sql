-- Everything of ours belongs to pghc_owner, whoever migrates. The right to create in schema public
-- (for the view) is lent for the time of the migrations. From the lock on, one session migrates.
create schema if not exists pghc authorization pghc_owner;
grant usage, create on schema public to pghc_owner;
set local role pghc_owner;
create table if not exists pghc.migration (
  version integer not null,
  name text not null,
  checksum text not null,
  applied_at timestamptz not null default clock_timestamp(),
  constraint migration_pkey primary key (version)
);
lock table pghc.migration in share row exclusive mode;
