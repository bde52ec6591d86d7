"""Jobs from submit to end: recorded before they are sent, and found when no notification comes.

submitter   check, record, send once
result      the end of a job, with its typed result
reconcile   ask MPS for the jobs whose end was not reported
"""
