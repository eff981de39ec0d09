//! What the exit codes of each command say, for its help and its manual page. They follow sysexits.h.
//!
//! Whatever the command, 64 says that an argument is wrong, 74 that the output cannot be written.

pub(super) const DEMO: &str = "\
Exit codes:
   0  the story was told to its end, or a signal ended it
  64  an argument is wrong
  69  something cannot be started, such as a listener; with --node: no node answers, or the account has too little
  70  a step did not end as it must, or with --node not everything was sent back
  74  the output cannot be written
  78  the seed's file cannot be used";

pub(super) const SERVE: &str = "\
Exit codes:
   0  a signal ended it
  64  an argument is wrong
  69  an address cannot be listened on, or threads or signals are not to be had
  78  the configuration has faults, or what it names cannot be opened";

pub(super) const CHECK: &str = "\
Exit codes:
   0  the file can be used
  64  an argument is wrong
  65  with --against-store: it would leave grants without a route
  74  the journal cannot be read, or the output not written
  78  the file has faults, or what it names cannot be opened";

pub(super) const EXPLAIN: &str = "\
Exit codes:
   0  the request is explained, whether it has a route or is answered 404
  64  it is no request: the method, the URL or the host is wrong
  65  the gateway would answer it 400: its path is not canonical, its two hosts differ, or what a price
      depends on is not clear
  74  the output cannot be written
  78  the configuration has faults";

pub(super) const DEVNET: &str = "\
Exit codes:
   0  a signal ended it
  64  an argument is wrong
  69  the address cannot be listened on
  74  the output cannot be written";

pub(super) const PAY: &str = "\
Exit codes:
   0  every request was answered with a status below 400, and no error of gRPC
   1  an answer was an error of the upstream or the gateway
  64  an argument is wrong, or an answer is too long for --json
  69  the gateway or every node cannot be reached, an answer broke off, or there are no funds
  74  the output cannot be written
  75  a payment is on its way and not settled yet: do not pay again
  76  the answer is no bill that this wallet can pay, or the payment was refused
  77  it would cost more than --max or --max-per-day
  78  a file cannot be used: the seed's, or those of --ca-file and --spent-file";

pub(super) const PURSE: &str = "\
Exit codes:
   0  it is printed
   1  with --url: the gateway knows no such token
  64  an argument is wrong, or what is given is no token
  69  with --url: the gateway cannot be reached, or cannot say it now
  74  the output cannot be written
  78  the token's file cannot be used";

pub(super) const DOCTOR: &str = "\
Exit codes:
   0  everything works, perhaps with warnings
   1  something does not
  64  an argument is wrong
  74  the output cannot be written
  78  the configuration has faults";

pub(super) const BACKUP: &str = "\
Exit codes:
   0  the copy is made and verified
  64  an argument is wrong
  74  the copy cannot be made, or the output not written
  78  the configuration has faults, or the store is no file";

pub(super) const RECOVER: &str = "\
Exit codes:
   0  all that was received is claimed
  64  an argument is wrong, or --except names what was not received
  69  a node or the store cannot tell or keep it
  74  the output cannot be written
  78  the configuration has faults, or what it names cannot be opened";

pub(super) const POOL: &str = "\
Exit codes:
   0  the addresses are printed
  64  an argument is wrong
  74  the output cannot be written
  78  the configuration has faults, or the pool cannot be read";

pub(super) const SWEEP: &str = "\
Exit codes:
   0  the pool is swept, or a signal ended it
   1  an account was not swept completely
  64  an argument is wrong
  69  no node answers
  74  the journal or the output cannot be written
  75  with --once: another process is sweeping this pool
  78  the configuration has faults or allows no sweep";

pub(super) const REFUNDS: &str = "\
Exit codes:
   0  it is printed, or all that is owed is sent
   1  of pay: something is not sent yet
  64  an argument is wrong
  74  the journal or the output cannot be read or written
  75  of pay: another process makes blocks of this pool
  78  the configuration has faults, there is no journal, or the seed cannot be used";

pub(super) const PAYMENTS: &str = "\
Exit codes:
   0  it is printed; of reconcile: journal and ledger agree
   1  of show: there is no such payment; of reconcile: they do not agree
  64  an argument is wrong
  69  no node answers
  74  the journal cannot be read, or the output not written
  78  the configuration has faults, or there is no journal yet";

pub(super) const ADMIN: &str = "\
Exit codes:
   0  it is done, or printed
   1  there is no such payment, capability or route
  64  an argument is wrong, or the idempotency key was used for something else
  65  of reload: the configuration has faults, and nothing was changed
  69  the gateway cannot be reached, has no admin API, or cannot do it now
  74  the output cannot be written
  77  the token is refused
  78  the configuration here has faults, or the token's file cannot be used";

pub(super) const COMPLETIONS: &str = "\
Exit codes:
   0  they are printed
  64  an argument is wrong
  74  the output cannot be written";

pub(super) const MAN: &str = "\
Exit codes:
   0  they are printed or written
  64  an argument is wrong
  69  the directory cannot be written
  74  the output cannot be written";
