//! All SQL of pghc and nothing else: connections, migrations, the one apply statement, reads. Knows no Raft.
