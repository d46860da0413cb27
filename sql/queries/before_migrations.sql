-- Everything of ours belongs to pghc_owner, whoever migrates. The right to create in schema public
-- (for the view) is lent for the time of the migrations.
create schema if not exists pghc authorization pghc_owner;
grant usage, create on schema public to pghc_owner;
set role pghc_owner;
