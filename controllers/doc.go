// Package controllers is the operator. One reconcile takes one profile through a pipeline:
//
//	facts    := resolve.Resolve(profile)                  what the cluster says of the target; reads
//	seen     := observer.Observe(target)                  what its proxies say of its traffic; reads
//	failing  := calls.Failing()                           around a switch: whose calls to it fail, by their proxies; reads
//	decision := rollout.Next(spec, facts, seen, failing…) what must be now; pure
//	intent   := plan.Build(decision)                      the objects that say so, in no mesh's terms; pure
//	desired  := istio.Render(intent)                      the same as Istio objects; pure
//	applied  := apply.Apply(desired)                      the only writes of Istio objects
//	status   := status.Compute(all of it)                 pure; written once, and not at all when it says the same
//
// A profile for a whole namespace that goes to STRICT in stages does this once for each of its workloads, as if each had a
// profile of its own, and rollout.Gather makes one decision of theirs (members.go). Access logs and the callers' own proxies
// are read beside the observation, where they matter (accesslog.go, verification.go).
//
// # Invariants
//
// STRICT is written only when rollout.Next decides it from facts that were read from the API server itself and from a
// reading of the proxies taken after that: a first decision, made from the cache, only asks for the second one. No other
// place in the operator knows how to make something stricter or weaker.
//
// What was decided stands in status only if it could be written. Everything a decision remembers is in the profile's
// status or on the object that was written; what is kept in memory only (the proxies' counters, the time since an object
// last changed) makes the operator wait when it is lost, never hurry. One thing is lost for good: what the callers' proxies had
// counted before a switch, without which less is held against it.
//
// Proxies may stream what arrives without mutual TLS to the leader (traffic/accesslog). What they log names callers, counts
// as plaintext, and tells who is refused once STRICT is in force and nothing else is observed. It never proves that nobody
// called, and what may take STRICT back rests on streams only whose sender's identity is proven.
//
// A profile that is not accepted changes nothing: nothing is written and nothing removed.
//
// A reconcile that changes nothing makes no API call: reads come from the cache, unchanged objects are not written, and a
// settled profile is not looked at again until something that concerns it changes.
//
// # Imports
//
// They run one way, and the linter holds it:
//
//	api <- facts, traffic <- rollout <- plan <- istio <- apply <- status <- controllers
//
// facts, rollout, plan, istio and status know no Kubernetes client, no HTTP, no logger and no clock. Only this package
// imports all of the others.
package controllers
