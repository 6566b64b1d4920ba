"""Fault simulation: lists of operations over the real machines of both roles, from a seed.

An operation (`ops`) is one thing that a network, a disk, a process, an operator, a lying aggregator
or a lying party can do. A `Scenario` is a small federation and a list of operations; `generate`
draws one from a number, `world` plays it against the deployed state machines, the real
`Coordinator` with its SQLite journal and its spool files, and the wire codec, and lets everything
come to rest at the end: what is in flight arrives, rounds that starve are closed. `audit` holds
every step against the rules below. A scenario that breaks one is cut down by `shrink` and printed
as a test for `test_fault_reproductions.py`.

With open sums party p contributes 16^(p-1) times a fixed vector of the task, so an opened sum read
in base 16 says how often each party is in it: a missing, doubled or foreign contribution is named,
not guessed. Two of five scenarios have closed sums, one of them as ciphertexts: their sums are held
against the vectors that parties contributed, and their updates against the centralised ones.

**Failures**, by the names that findings carry:

* `sum-exact`: an opened sum is not the ring sum of exactly the survivors' contributions.
* `sum-threshold`: a sum over fewer than the plan's threshold was opened.
* `sum-once`: in one task of a session sums over two different sets were opened, restarts included.
* `one-kind`: an honest party revealed both kinds of share of one owner, or honest parties together
  revealed one kind each.
* `secret-pair`: from all that ever reached the aggregator both secrets of an owner follow.
* `pair-stored`: both kinds of share of an owner are in the aggregator's memory, journal or spool.
* `secret-held`: a group secret of a closed or encrypted task, or the seed of its key, is there.
* `share-kept`: a share is on the aggregator's disk after the session was retired.
* `tile-lost`: a tile that was acknowledged is not stored any more.
* `state-lost`: after a restart the aggregator is in another state, or its mailboxes differ.
* `receipt-lost`: a message that was accepted is refused when it comes again.
* `refusal-changed`: an input that was refused changed the aggregator's state.
* `two-contributions`: one task has two different contributions of an honest party, or two uploads.
* `opened-twice`: an opener opened a second time what it had opened durably, or a second sum.
* `update-exact`: nobody lied, and a party opened another update than the centralised one.
* `party-lost`: a party that was restarted from its journal is not where it was.
* `no-reason`: somebody aborted without a reason.
* `wrong-reason`: somebody aborted for a reason, or blamed somebody, that cannot be right.
* `lie-accepted`: a party went on after a statement that it must recognise as a lie.
* `no-evidence`: a lie that is provable to others did not leave evidence that verifies.
* `framed`: evidence was made against somebody who did not lie.
* `two-statements`: an honest party signed two different bodies of one kind in one task.
* `unsigned-reveal`: a party revealed shares of a survivor set that it did not sign, or opened an
  encrypted sum over one, or revealed shares where there are no masks.
* `update-fork`: two honest parties completed a task with different updates.
* `liveness`: nobody lied, at most N - t parties were hurt, and the session did not complete, and
  not for want of a hurt opener.
* `waited-for`: nothing is in flight any more and an unhurt party is still waited for.
* `error`: an exception that is not of this project's tree.

**Not failures:** a session that aborts with a reason when more than N - t parties are hurt (lost or
damaged messages, a round that was closed on them, a crash without return) or when somebody lies;
a party that the network can make believe that the session is over, once the network speaks with
the aggregator's key; updates that a lying aggregator shows to nobody; messages of a party that
are refused after it was given up.

**Not deterministic:** the journal writes the time of day beside each input, which nothing reads.
Ciphertexts have the library's randomness. Everything else follows from the scenario: keys are drawn
from seeded randomness.
"""
