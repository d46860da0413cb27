-- Newest applied id.
select applied_id from pghc.frontier
