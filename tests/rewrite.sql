-- Rewrites a zone's chain from the link `:first` on so that it is sound in itself, and the frontier with
-- it: what a superuser can do who knows how the chain is made.
set session_replication_role = replica;
do $$
declare before pghc.chain; link pghc.chain; cluster uuid;
begin
    select cluster_id into cluster from pghc.cluster;
    select * into before from pghc.chain where id = :first - 1;
    for link in select * from pghc.chain where id >= :first order by id loop
        if link.id = :first then link.node_id := 'forged'; end if;
        link.hash := md5(link.id::text || link.node_id || coalesce(before.hash, ''));
        link.digest := pghc.link_digest(cluster, link.id, link.node_id, link.written_at,
            link.payload, before.digest);
        update pghc.chain set node_id = link.node_id, payload = link.payload, hash = link.hash,
            digest = link.digest where chain.id = link.id;
        before := link;
    end loop;
    update pghc.frontier set hash = before.hash, digest = before.digest;
end $$;
set session_replication_role = origin;
