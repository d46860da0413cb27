-- Rows of the chain without an id, which no reading by id shows; counted up to 1000. With the
-- primary key this looks into its index and finds none.
select count(*) from (select from pghc.chain where id is null limit 1000) without_id
