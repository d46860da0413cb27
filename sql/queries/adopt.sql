-- Gives the chain of this database, a copy of another zone's, to the zone in the setting pghc.zone.
do $$
begin
  alter table pghc.cluster disable trigger cluster_change;
  update pghc.cluster set zone = current_setting('pghc.zone');
  alter table pghc.cluster enable trigger cluster_change;
end
$$
