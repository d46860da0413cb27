-- Notes migration $1, name $2, checksum $3.
insert into pghc.migration (version, name, checksum) values ($1, $2, $3)
