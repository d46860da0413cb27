-- Up to $2 links above $1 in id order, and on each row the chain values of link $1 and the frontier of the
-- same snapshot; one row of nulls when there is none. The page ends early behind the link with which its payloads reach
-- $3 stored bytes, so that one page cannot fill the memory.
-- A limit keeps each lookup one by index, whatever the planner believes of tables without statistics.
select frontier.applied_id, link.id, link.node_id, link.hash, link.digest, link.written_at,
    link.payload, before.id, before.hash, before.digest, before.written_at
  from pghc.frontier
  left join lateral (
    select page.*, coalesce(sum(pg_column_size(page.payload)) over (
        order by page.id rows between unbounded preceding and 1 preceding), 0) as bytes_before
      from (
        select id, node_id, hash, digest, written_at, payload
          from pghc.chain
          where id > $1 and id <= frontier.applied_id
          order by id limit $2
      ) page
  ) link on link.bytes_before < $3
  left join lateral (
    select id, hash, digest, written_at from pghc.chain where id = $1 limit 1
  ) before on true
  order by link.id
