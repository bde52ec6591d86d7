"""Jobs from submit to end: recorded before they are sent, and found when no notification comes.

client      submit a job once, wait for its end
reconcile   ask MPS for the jobs whose end was not reported
"""
