-- Prints chain.json: links whose hashes and digests were computed by PostgreSQL's own md5() and
-- sha256(), sharing nothing with the Rust formulae. Any PostgreSQL from 11 on with encoding UTF8:
--   psql -XAtq -f api/vectors/chain.sql > api/vectors/chain.json
-- Three chains: one from link 1, and two that go on from an imagined link, so that ids around 2^32
-- and the last one a bigint can hold are covered.

create temporary table link (
    chain text, id bigint, node_id text, hash text, digest bytea, micros bigint, payload text
);

create function pg_temp.field(bytes bytea) returns bytea
language sql immutable as
$$ select int4send(length(bytes)) || bytes $$;

create procedure pg_temp.extend(
    chain_ text, cluster uuid, id_ bigint, node text, micros_ bigint, payload_ text
) language plpgsql as $$
declare
    before record;
begin
    select hash, digest into before from link where chain = chain_ and id = id_ - 1;
    insert into link values (
        chain_, id_, node,
        md5(id_::text || node || coalesce(before.hash, '')),
        sha256(
            pg_temp.field('pghc/1'::bytea)
            || pg_temp.field(convert_to(cluster::text, 'UTF8'))
            || pg_temp.field(int8send(id_))
            || pg_temp.field(convert_to(node, 'UTF8'))
            || pg_temp.field(int8send(micros_))
            || pg_temp.field(coalesce(sha256(convert_to(payload_, 'UTF8')), ''::bytea))
            || pg_temp.field(coalesce(before.digest, ''::bytea))
        ),
        micros_, payload_
    );
end $$;

do $$
declare
    one uuid := '0190a1b2-c3d4-7e5f-8091-a2b3c4d5e6f7';
    two uuid := 'ffffffff-ffff-4fff-bfff-ffffffffffff';
begin
    call pg_temp.extend('first', one, 1, 'pghc', -1, '{"a":1}');
    call pg_temp.extend('first', one, 2, 'pghc', 0, null);
    call pg_temp.extend('first', one, 3, 'api-2.eu_west', 0, 'null');
    call pg_temp.extend('first', one, 4, repeat('n', 64), 1700000000000000, '"žluťoučký 馬 🐎"');
    call pg_temp.extend('first', one, 5, 'Z', 1700000000000001, E' {\n\t"b": 2,  "a" : [ ] }');
    call pg_temp.extend('first', one, 6, 'pghc', 1700000000123456, '""');
    call pg_temp.extend('first', one, 7, 'pghc', 1700000000123456, to_json(repeat('x', 5000))::text);
    call pg_temp.extend('first', one, 8, 'a1', 253402300799999999, '-1.50e+10');
    insert into link values ('late', 4294967294, 'before', md5('any'), sha256('any'), 5, null);
    call pg_temp.extend('late', two, 4294967295, 'pghc', 6, '[]');
    call pg_temp.extend('late', two, 4294967296, 'pghc', 7, '{}');
    call pg_temp.extend('late', two, 4294967297, 'pghc', 7, null);
    insert into link values ('last', 9223372036854775806, 'before', md5('b'), sha256('b'), 5, null);
    call pg_temp.extend('last', two, 9223372036854775807, 'pghc', 6, '0');
end $$;

select E'[\n' || string_agg(line, E',\n' order by chain, id) || E'\n]' from (
    select chain, id, json_build_object(
        'cluster_id', case chain when 'first' then '0190a1b2-c3d4-7e5f-8091-a2b3c4d5e6f7'
            else 'ffffffff-ffff-4fff-bfff-ffffffffffff' end,
        'id', id, 'node_id', node_id, 'hash', hash, 'digest', encode(digest, 'hex'),
        'micros', micros, 'payload', payload)::text as line
    from link
) as lines;
