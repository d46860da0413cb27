-- Why this zone is fenced: what was found first, and the newest words on it. No row: it is not.
select id, what, expected, found, node from pghc.evidence order by found_at desc limit 1
